"""Reports: the HTML page of a sweep, its plots, judged training histories, and how numbers are
written.
"""
