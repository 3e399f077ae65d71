"""A detector behind HTTP: one page and one route, with a limit for everything"""
