"""Evaluation: a loaded model and a folder of questions in, scores with every per-item outcome out.

`settings` says what is scored, `catalogue` which tasks there are, `data` reads the question files, `protocols` turns
log-probabilities into outcomes, `checks` refuses those of a broken model, `scores` makes scores of the others; `lm` lets lm-eval
drive our engines, and `harness` runs it all.
"""
