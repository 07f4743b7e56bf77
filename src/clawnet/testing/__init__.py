"""Public suites, fakes and fault injectors for tests and the demo."""
