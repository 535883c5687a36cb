"""Breast-cancer data in three parties: tables by id, joint prediction, baselines."""
