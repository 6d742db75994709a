package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// report writes the page and the picture to b.out, or the page alone to standard output if b.out
// is empty.
func (b *bench) report(ctx context.Context, took time.Duration) error {
	var page bytes.Buffer
	b.heading(ctx, &page, took)
	for _, s := range b.sections() {
		b.writeSectionTo(&page, s)
	}
	versionsTo(&page)
	if b.out == "" {
		_, err := os.Stdout.Write(page.Bytes())
		return err
	}
	picture := filepath.Join(b.out, "docs", "benchmarks.svg")
	if err := os.MkdirAll(filepath.Dir(picture), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(picture, b.picture(), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.out, "docs", "benchmarks.md"), page.Bytes(), 0o644)
}

// heading writes the head of the page, which says how the figures came about.
func (b *bench) heading(ctx context.Context, w io.Writer, took time.Duration) {
	redis := ""
	if b.kept != nil {
		redis = ", Redis " + b.kept.version(ctx) + " on the same machine"
	}
	fmt.Fprintf(w, `# Benchmarks

aside beside other libraries, each used the way its own documentation recommends, with the same values, loader, time to live and keys.
Made by `+"`%s`"+` on %s in %v; run it to check.
%s, %d cores, %s/%s, %s%s.

All run in one process, one after another, in %s of %v a measurement, each round in a random order; figures are medians across the rounds.
Time is the time that passed, divided by the operations that were done in it. "×" is the ratio to %q of the same run, or in memory to %q; less is better, and the best is **bold**.
Only ratios of one run mean anything: the machine is shared, Redis, the clients and the measuring compete for its cores.

`, b.command, time.Now().UTC().Format("2 January 2006"), took.Round(time.Second),
		processor(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version(), redis,
		plural(b.rounds, "round"), b.each, baseline, memoryBaseline)
	if b.out != "" {
		fmt.Fprint(w, "![The most telling of these figures as bars](benchmarks.svg)\n\n")
	}
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// writeSectionTo writes a section, unless all of its tables are empty, as with -only.
func (b *bench) writeSectionTo(w io.Writer, s section) {
	var body bytes.Buffer
	for _, t := range s.tables {
		b.writeTable(&body, t)
	}
	if body.Len() > 0 {
		fmt.Fprintf(w, "## %s\n\n%s\n\n", s.title, s.intro)
		_, _ = body.WriteTo(w)
	}
}

// writeTable writes a table in Markdown, unless it is empty.
func (b *bench) writeTable(w io.Writer, t table) {
	known := t.rows
	if known == nil {
		known = names(peers())
	}
	rows := b.results.rows(t.id, known)
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(w, "### %s\n\n", t.title)
	if t.intro != "" {
		fmt.Fprintf(w, "%s\n\n", t.intro)
	}
	fmt.Fprint(w, "|")
	for _, c := range t.columns {
		fmt.Fprintf(w, " | %s", c.heading)
	}
	fmt.Fprintf(w, " |\n|---%s|\n", strings.Repeat("|--:", len(t.columns)))
	best := b.best(t, rows)
	for _, row := range rows {
		fmt.Fprintf(w, "| %s", row)
		for i, c := range t.columns {
			fmt.Fprintf(w, " | %s", b.figure(t, row, c, best[i]))
		}
		fmt.Fprint(w, " |\n")
	}
	fmt.Fprint(w, "\n")
}

// best returns the best figure of each column, or NaN for a column that marks none.
func (b *bench) best(t table, rows []string) []float64 {
	out := make([]float64, len(t.columns))
	for i, c := range t.columns {
		out[i] = math.NaN()
		for _, row := range rows {
			v, ok := b.results.median(t.id, row, c.key)
			if ok && c.best != 0 && (math.IsNaN(out[i]) || float64(c.best)*v > float64(c.best)*out[i]) {
				out[i] = v
			}
		}
	}
	return out
}

// figure returns the text of a cell. Figures that look the same as the best are all bold: their
// difference is below the precision that is shown.
func (b *bench) figure(t table, row string, c column, best float64) string {
	v, ok := b.results.median(t.id, row, c.key)
	if !ok {
		return "–"
	}
	text := c.format(v)
	if c.format(best) == text && !math.IsInf(v, 1) {
		text = "**" + text + "**"
	}
	if base, ok := b.results.median(t.baseID, t.base, c.key); c.ratio && ok && base > 0 {
		text += " ×" + significant(v/base)
	}
	return text
}

// versionsTo writes the table of the libraries, with their versions and the way they were used.
func versionsTo(w io.Writer) {
	versions := moduleVersions()
	fmt.Fprint(w, "## Libraries and versions\n\n|  | version | how |\n|---|---|---|\n")
	for _, p := range peers() {
		fmt.Fprintf(w, "| %s | %s | %s |\n", p.name, versions[p.module], p.how)
	}
}

// moduleVersions returns the versions of the modules in this program, by path. For one in the
// working directory it is the commit.
func moduleVersions() map[string]string {
	out := make(map[string]string)
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return out
	}
	for _, m := range info.Deps {
		out[m.Path] = strings.TrimSuffix(m.Version, "+incompatible")
		if m.Version == "(devel)" || m.Replace != nil {
			out[m.Path] = revision()
		}
	}
	return out
}

// revision returns the commit of the working directory, if it is a git repository.
func revision() string {
	out, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "this tree"
	}
	return "this tree, " + strings.TrimSpace(string(out))
}

// processor returns the name of the machine's processor, which only Linux tells.
func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "an unnamed processor"
}

func capital(text string) string {
	r := []rune(text)
	return string(slices.Concat([]rune(strings.ToUpper(string(r[:1]))), r[1:]))
}
