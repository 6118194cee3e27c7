"""Measure a device within a budget: ceilings, operators of many shapes, whole models."""
