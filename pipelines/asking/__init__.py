"""What a person asks before a build and of a version: preview, why, explain, diff, replay, and the screens that answer."""
