"""Reports of a small audit whose names of queries, groups and images try to break out of the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from debiasing_methods.base import QueryGroup, Vanilla
from debiasing_methods.projections import OrthProj
from fair_search.audit import Audit, AuditedMethod, audit
from fair_search.audit_settings import AuditSettings
from fair_search.groups import Groups, QueryLabels
from fair_search.report.audit_page import audit_page
from fair_search.report.audit_report import AuditReport, Pictures
from fair_search.report.page import render

N, D = 200, 8
HOSTILE = (
    "<script>document.title='broken'</script>",
    '"><img src=x onerror=alert(1)>',
    "$\\frac{a$ {{ 7*7 }} {% raw %}",
    "医生的照片 صورة طبيب " + "averyverylongwordwithoutanyspace" * 4,
)
CLASSES = ("<b>bold</b>", 'A & B "quoted"', "third")


@pytest.fixture(scope="session")
def hostile_audit() -> Audit:
    random = np.random.default_rng(0)
    codes = random.integers(3, size=N)
    images = random.normal(size=(N, D)).astype(np.float32)
    images[:, 0] += 2 * (codes == 1)
    queries = [
        QueryGroup(torch.from_numpy(random.normal(size=(1, D)).astype(np.float32)), name, torch.eye(D)[:1])
        for name in HOSTILE
    ]
    audited = {method.name: AuditedMethod(method, queries) for method in (Vanilla(), OrthProj())}
    labels = QueryLabels(random.integers(2, size=N), np.array([0, 1, 0, 1]))
    groups = Groups("<i>attribute</i>", CLASSES, codes)
    return audit(images, groups, audited, HOSTILE, AuditSettings((5, 20), draws=20), labels=labels)


@pytest.fixture(scope="session")
def hostile_report(hostile_audit: Audit, tmp_path_factory: pytest.TempPathFactory) -> str:
    """HTML of a report with thumbnails."""
    folder = tmp_path_factory.mktemp("pictures")
    for row in range(N):
        Image.new("RGB", (300, 200), (row, 255 - row, 90)).save(folder / f"{row}.jpg")
    paths: list[Path] = [folder / f"{row}.jpg" for row in range(N)]
    names = [f"<u>{row}</u>" for row in range(N)]
    report = AuditReport(hostile_audit, names, "", Pictures(paths), ("A note & <more>.",))
    html = render(audit_page(report))
    assert report.unreadable == []
    return html
