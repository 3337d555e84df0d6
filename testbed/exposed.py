"""Reading an exposition in a test: values by metric name and labels."""

from prometheus_client.parser import text_string_to_metric_families

from exporter.exposition import Body


class Exposed:
    """The samples of a text exposition."""

    def __init__(self, text: str | bytes | Body) -> None:
        text = text if isinstance(text, str) else bytes(text).decode()
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        """The value of the one sample with this name and at least these labels; None if there is none."""
        found = [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]
        assert len(found) <= 1, f"{name} {labels} is ambiguous: {found}"
        return found[0] if found else None

    def names(self) -> set[str]:
        """Names of all samples."""
        return {sample.name for sample in self.samples}

    def series(self) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        """Name and labels of every sample."""
        return {(sample.name, tuple(sorted(sample.labels.items()))) for sample in self.samples}
