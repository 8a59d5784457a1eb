"""The chart that a README shows: what each server does and what it costs."""

import textwrap

from .results import ARRANGEMENTS, foot, headline

OURS, OTHERS, CEILING = "#2f6f9f", "#b9c0c7", "#e3e6e9"
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
        1, 2, sharey=True, figsize=(8, 1.7 + 0.34 * len(ordered)), layout="constrained"
    )
    for panel, title, figure_name, form in (
        (panels[0], workload.unit, "rate", "{:,.0f}"),
        (panels[1], "CPU µs per message (less is better)", "cpu_us", "{:,.1f}"),
    ):
        values = [row.median(figure_name) for row in ordered]
        bars = panel.barh(names, values, color=[colour(name) for name in names], height=0.7)
        panel.bar_label(bars, [form.format(value) for value in values], padding=4, color=INK)
        panel.set_title(title, loc="left", fontsize=11, color=INK)
        panel.margins(x=0.2)
        panel.xaxis.set_visible(False)
        panel.tick_params(axis="y", length=0, labelcolor=INK)
        panel.spines[:].set_visible(False)
    for label in panels[0].get_yticklabels():
        if label.get_text().startswith("iocpx"):
            label.set_fontweight("bold")
    figure.suptitle(
        f"{workload} ({arrangement}: {ARRANGEMENTS[arrangement]})",
        x=0.01,
        ha="left",
        fontsize=12,
        color=INK,
    )
    figure.supxlabel(
        textwrap.fill(foot(about), 110), x=0.01, ha="left", fontsize=8, color=FAINT
    )
    figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def colour(name):
    return OURS if name.startswith("iocpx") else CEILING if name == "ceiling" else OTHERS
