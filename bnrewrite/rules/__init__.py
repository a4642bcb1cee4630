"""Second-order rules by family of operations; `table.RULES` collects them."""
