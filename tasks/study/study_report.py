"""Findings: draw the results of a study's analyses and gather them on one page."""

from typing import Any

from tasks.artifacts.study.study_report import (
    PAGE_WITHOUT_WORDS,
    STUDY_PAGE,
    STUDY_TABLE,
    StudySummary,
    write_study_report,
)
from tasks.engine.stage import stage
from tasks.engine.work import Work


@stage(packages=("jinja2", "matplotlib", "pandas"))
def findings(work: Work, *, cells: list[dict[str, Any]]) -> dict:
    """Write `study.html`, one self-contained page; every figure as PNG and its data as CSV; `study.md`, `study.json`.

    If figures show words of rows, also `study_without_words.html`; `study.json` lists these figures as `private`.

    cells: for each model and data set `label`, `model`, `task`, `facts`, and `analyses`, the references to artifacts by
    stage and label. Returns the numbers that answer a question, by cell if there are several.
    """
    from tasks.reports.study.answers import numbers
    from tasks.reports.study.cells import Analysis, CellResults
    from tasks.reports.study.page import flat, markdown, page
    from tasks.reports.study.sections import draw, without_words

    def opened(cell: dict[str, Any]) -> CellResults:
        analyses = {name: Analysis(work.open(ref), ref.summary) for name, ref in cell["analyses"].items()}
        return CellResults(cell["label"], cell["model"], cell["task"], cell["facts"], analyses)

    studied = [opened(cell) for cell in cells]
    sections = draw(studied, work.out)
    found = numbers(studied)
    (work.out / STUDY_PAGE).write_text(page(studied, found, sections))
    (work.out / STUDY_TABLE).write_text(markdown(studied, found))
    figures = [drawn for section in sections for drawn in section.figures]
    private = [drawn.name for drawn in figures if drawn.private]
    if private:
        (work.out / PAGE_WITHOUT_WORDS).write_text(page(studied, found, without_words(sections)))
    write_study_report(
        work.out,
        {
            "cells": [cell.label for cell in studied],
            "numbers": found,
            "figures": [drawn.name for drawn in figures],
            "private": private,
        },
    )
    summary: StudySummary = {"num_figures": len(figures)}
    return {**summary, **flat(found)}
