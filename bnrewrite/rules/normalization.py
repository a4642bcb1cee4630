"""Normalizations other than BatchNorm."""

from __future__ import annotations

from ..passes.rule import RuleTable

RULES: RuleTable = {}
