"""Evaluation: a loaded model and a folder of questions in, scores with every per-item outcome out.

`settings` says what is scored, `catalogue` which tasks there are, `data` reads the question files, `protocols` turns
log-probabilities into outcomes, `scores` outcomes into scores; `lm` lets lm-eval drive our engines, and `harness` runs
it all.
"""
