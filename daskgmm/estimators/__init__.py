"""The scikit-learn face: parameters in, attributes out. Formulas, passes and loops live below."""
