"""The chart that a README shows: what each server does and what it costs."""

import textwrap

from .results import ARRANGEMENTS, foot, headline
from .servers import CEILING

OURS, OTHERS = "#2f6f9f", "#b9c0c7"
INK, FAINT = "#33383d", "#767d84"


def write_chart(path, bench, about):
    import matplotlib

    matplotlib.use("Agg")
    # Text stays text in an .svg, and the same run makes the same file.
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "iocpx"
    from matplotlib import pyplot

    (arrangement, workload), rows = headline(bench)
    # The fastest stands on top; barh() begins at the bottom.
    ordered = sorted(rows.values(), key=lambda row: row.median("rate"))
    names = [row.server for row in ordered]
    figure, panels = pyplot.subplots(
        1, 2, sharey=True, figsize=(8, 1.9 + 0.34 * len(ordered)), layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1, wspace=0.03)
    for panel, title, figure_name, form in (
        (panels[0], f"{workload.unit}, more is better", "rate", "{:,.0f}"),
        (panels[1], "CPU µs per message, less is better", "cpu_us", "{:,.1f}"),
    ):
        values = [row.median(figure_name) for row in ordered]
        bars = panel.barh(names, values, color=[colour(name) for name in names], height=0.72)
        labels = panel.bar_label(
            bars, [form.format(value) for value in values], padding=4, color=INK, fontsize=9.5
        )
        for bar, label, name in zip(bars, labels, names):
            if name == CEILING:
                # Not a server that one could choose: an outline.
                bar.set(facecolor="none", edgecolor=OTHERS, linewidth=1.2, linestyle=(0, (4, 3)))
            elif name.startswith("iocpx"):
                label.set_fontweight("bold")
        panel.set_title(title, loc="left", fontsize=10, color=FAINT, pad=8)
        panel.set_xlim(0, max(values) * 1.2)
        panel.xaxis.set_visible(False)
        panel.tick_params(axis="y", length=0, labelcolor=INK)
        panel.spines[:].set_visible(False)
    for label in panels[0].get_yticklabels():
        if label.get_text().startswith("iocpx"):
            label.set_fontweight("bold")
    figure.suptitle(
        f"{workload}, {arrangement}",
        x=0.012,
        ha="left",
        fontsize=13,
        fontweight="bold",
        color=INK,
    )
    texts = [f"{arrangement}: {ARRANGEMENTS[arrangement]}."]
    if CEILING in names:
        texts.append("ceiling: an echo in C on a completion port.")
    texts.append(foot(about))
    figure.supxlabel(
        textwrap.fill(" ".join(texts), 118), x=0.012, ha="left", fontsize=8, color=FAINT
    )
    figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def colour(name):
    return OURS if name.startswith("iocpx") else OTHERS
