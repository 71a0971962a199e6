"""The bundled offline default: a narrow invented domain and a tiny base model that has read about it."""
