"""The charts that a README shows: what each server, or each loop, does and what it costs."""

import textwrap

from . import loop_summary
from .process import Failure
from .results import ARRANGEMENTS, foot, headline
from .servers import CEILING

OURS, OTHERS = "#2f6f9f", "#b9c0c7"
INK, FAINT = "#33383d", "#767d84"


def write_chart(path, bench, about):
    if bench.loops:
        title, panels, texts = of_loops(bench)
    else:
        title, panels, texts = of_servers(bench)
    draw(path, title, panels, [*texts, foot(about)])


def of_servers(bench):
    """The title, the panels as `draw` wants them, and the sentences below."""
    (arrangement, workload), rows = headline(bench)

    def medians(figure):
        return {row.server: row.median(figure) for row in rows.values()}

    panels = [
        (f"{workload.unit}, more is better", medians("rate"), "{:,.0f}".format),
        ("CPU µs per message, less is better", medians("cpu_us"), "{:,.1f}".format),
    ]
    texts = [f"{arrangement}: {ARRANGEMENTS[arrangement]}."]
    if CEILING in rows:
        texts.append("ceiling: an echo in C on a completion port.")
    return f"{workload}, {arrangement}", panels, texts


def of_loops(bench):
    arrangement = bench.arrangements[0]
    panels = [
        (column.heading, values, column.shown)
        for column, values in loop_summary.summary(bench)
        if column.in_chart
    ]
    if not panels:
        raise Failure("--plot: nothing was measured that this chart shows")
    texts = [
        f"More is better. {loop_summary.WHAT}",
        f"{arrangement}: {ARRANGEMENTS[arrangement]}.",
    ]
    return f"asyncio event loops, {arrangement}", panels, texts


def draw(path, title, panels, texts):
    """panels: title, values by name, and how one is written. A name may be missing in some."""
    import matplotlib

    matplotlib.use("Agg")
    # Text stays text in an .svg, and the same run makes the same file.
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "iocpx"
    from matplotlib import pyplot

    # The one with the most in the first panel stands on top; barh() begins at the bottom.
    first = panels[0][1]
    every = dict.fromkeys(name for _, values, _ in panels for name in values)
    names = sorted(every, key=lambda name: first.get(name, 0))
    figure, axes = pyplot.subplots(
        *(1, len(panels)),
        sharey=True,
        squeeze=False,
        figsize=(8, 1.9 + 0.34 * len(names)),
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1, wspace=0.03)
    for panel, (heading, values, show) in zip(axes[0], panels):
        widths = [values.get(name, 0) for name in names]
        bars = panel.barh(names, widths, color=[colour(name) for name in names], height=0.72)
        texts_of_bars = [show(values[name]) if name in values else "" for name in names]
        labels = panel.bar_label(bars, texts_of_bars, padding=4, color=INK, fontsize=9.5)
        for bar, label, name in zip(bars, labels, names):
            if name == CEILING:
                # Not a server that one could choose: an outline.
                bar.set(facecolor="none", edgecolor=OTHERS, linewidth=1.2, linestyle=(0, (4, 3)))
            elif name.startswith("iocpx"):
                label.set_fontweight("bold")
        panel.set_title(heading, loc="left", fontsize=10, color=FAINT, pad=8)
        panel.set_xlim(0, max(widths) * (1.2 if len(panels) < 3 else 1.35))
        panel.xaxis.set_visible(False)
        panel.tick_params(axis="y", length=0, labelcolor=INK)
        panel.spines[:].set_visible(False)
    for label in axes[0][0].get_yticklabels():
        if label.get_text().startswith("iocpx"):
            label.set_fontweight("bold")
    figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.supxlabel(
        textwrap.fill(" ".join(texts), 118), x=0.012, ha="left", fontsize=8, color=FAINT
    )
    figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def colour(name):
    return OURS if name.startswith("iocpx") else OTHERS
