"""Gathering, scattering, looking up."""

from __future__ import annotations

from ..passes.rule import RuleTable

RULES: RuleTable = {}
