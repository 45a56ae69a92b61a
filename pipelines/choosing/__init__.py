"""From outcomes to tables: columns on disk, the verdicts of filters and selectors, and what is written."""
