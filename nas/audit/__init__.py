"""How far a search is to be believed: noise, the proxy's fidelity and cheaper or better proxies, from trainings of its own."""

from nas.audit.config import AuditConfig
from nas.audit.session import AuditResult, Watcher, audit

__all__ = ["AuditConfig", "AuditResult", "Watcher", "audit"]
