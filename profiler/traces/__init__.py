"""Traces of other tools, read into one set of tables, attributed and analysed."""
