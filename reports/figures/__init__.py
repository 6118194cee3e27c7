"""Figures from records: plotly's JSON as plain dictionaries for the page, matplotlib axes for notebooks.

One grammar in all of them: filled is measured, hollow is predicted; colour and shape say what bounds
an operator. Nothing is computed here but the place on the page.
"""

from reports.figures.accuracy import accuracy_figure, accuracy_span
from reports.figures.picture import ENDINGS, picture, plot_roofline, plot_time
from reports.figures.roofline import roofline_figure
from reports.figures.steptime import time_figure
from reports.figures.style import COLOURS, DARK, MARKERS, Figure
from reports.figures.timeline import timeline_figure

__all__ = [
    "COLOURS",
    "DARK",
    "ENDINGS",
    "MARKERS",
    "Figure",
    "accuracy_figure",
    "accuracy_span",
    "picture",
    "plot_roofline",
    "plot_time",
    "roofline_figure",
    "time_figure",
    "timeline_figure",
]
