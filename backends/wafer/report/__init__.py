"""What a placed program costs, as pictures and tables: a floorplan, and a page that needs nothing but a browser.

`figures` counts per kernel and per stage from the program and its clock; `floorplan`, `charts` and `page` show it. No graph is needed.
"""

from cgptc.backends.wafer.report.figures import Figures, measure
from cgptc.backends.wafer.report.floorplan import floorplan_svg
from cgptc.backends.wafer.report.page import write_report

__all__ = ["Figures", "floorplan_svg", "measure", "write_report"]
