"""Forecasts of a request rate: constant, Holt-Winters, Kalman. Frozen values: observing returns the next one."""
