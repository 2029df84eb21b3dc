"""Real servers for the tests: private, on loopback ports, in folders of their own.

Started when the first test asks for one (tests/conftest.py has the fixtures) and stopped at the
end of the session. Nothing here is a stand-in: the databases, the broker, Prometheus and the
Celery workers are the real ones.
"""
