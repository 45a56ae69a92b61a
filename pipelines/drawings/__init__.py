"""Pictures of step trees and Petri nets as SVG, made without a browser.

    tree_svg(rows of `nodes`)     every node with its counts and interval, first errors marked
    net_svg(a row with `steps`)   places and transitions, a column a frontier, the critical path marked

A picture is one string: nothing is fetched, nothing runs, every text in it is escaped and printable. It stands in a page as it
is and takes the page's colours (`CSS` has them for light and dark); `standalone` makes it a file that any renderer reads.
"""

from tracemill.pipelines.drawings.net import net_svg as net_svg
from tracemill.pipelines.drawings.svg import CSS as CSS
from tracemill.pipelines.drawings.svg import standalone as standalone
from tracemill.pipelines.drawings.tree import tree_svg as tree_svg
