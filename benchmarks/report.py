"""The samples of a benchmark, and the table they make."""

from collections import Counter


class Results:
    """Samples by operation and socket, in the order in which they were first taken."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[str, list[float]]] = {}
        self.units: dict[str, str] = {}
        self.errors: Counter[tuple[str, str, str]] = Counter()

    def add(self, operation: str, socket: str, value: float, unit: str = "ms") -> None:
        self.units[operation] = unit
        self.samples.setdefault(operation, {}).setdefault(socket, []).append(value)

    def failed(self, operation: str, socket: str, error: BaseException) -> None:
        self.errors[operation, socket, f"{type(error).__name__}: {error}"[:300]] += 1

    def failures(self, operation: str, socket: str) -> int:
        return sum(n for (op, name, _), n in self.errors.items() if (op, name) == (operation, socket))


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def summary(results: Results, names: list[str], baseline: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for operation, by_socket in results.samples.items():
        cells: dict[str, dict[str, float]] = {}
        for name in names:
            if values := by_socket.get(name):
                cell = {"p50": percentile(values, 0.5), "p95": percentile(values, 0.95), "n": len(values)}
                if name != baseline and by_socket.get(baseline):
                    cell["ratio"] = cell["p50"] / percentile(by_socket[baseline], 0.5)
                cells[name] = cell
        rows.append({"operation": operation, "unit": results.units[operation], "sockets": cells})
    return rows


def print_table(rows: list[dict], names: list[str], baseline: str) -> None:  # type: ignore[type-arg]
    others = [name for name in names if name != baseline] if baseline else []
    width = max(len(row["operation"]) for row in rows) + 2
    head = f"{'':{width}}{'unit':>5}{'n':>6}"
    for name in names:
        head += f"{name + ' p50':>18}{'p95':>9}"
    print(head + "".join(f"{f'{name}/{baseline}':>{len(name) + len(baseline) + 3}}" for name in others))
    for row in rows:
        cells = row["sockets"]
        line = f"{row['operation']:{width}}{row['unit']:>5}{max(cell['n'] for cell in cells.values()):>6}"
        for name in names:
            cell = cells.get(name)
            line += f"{number(cell['p50']):>18}{number(cell['p95']):>9}" if cell else f"{'-':>18}{'-':>9}"
        for name in others:
            ratio = cells.get(name, {}).get("ratio")
            line += f"{f'{ratio:.2f}' if ratio else '-':>{len(name) + len(baseline) + 3}}"
        print(line)


def number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"
