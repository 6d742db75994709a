package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// breakage is a deliberate bug, as read from a patch file: the first line is its name, the
// second says which test catches it, and the rest is a unified diff. More text may stand before
// the diff.
type breakage struct {
	name     string
	caughtBy string // a test, perhaps with its package, or "" if nobody knows yet
	patch    string // the path of the patch file in the folder
	hunks    []hunk
}

// The second line of a patch file begins with caughtBy. inPackage is between the name of a test
// and its package, which is the root where there is none.
const (
	caughtBy  = "caught by "
	inPackage = " in "
)

// test returns the test that catches the breakage, and its package; both "" if none is known.
func (b breakage) test() (name, pkg string) {
	if b.caughtBy == "" {
		return "", ""
	}
	name, pkg, _ = strings.Cut(b.caughtBy, inPackage)
	return name, cmp.Or(pkg, ".")
}

// hunk is a change at one place of a file.
type hunk struct {
	file   string
	header string   // the line with @@, which ends with the line that begins the function around it
	lines  []string // each begins with a space, a minus, or a plus
}

// readBreakages reads all patch files in a folder and below, in the order of their paths.
func readBreakages(folder fs.FS) ([]breakage, error) {
	var all []breakage
	err := fs.WalkDir(folder, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(folder, path)
		if err != nil {
			return err
		}
		b, err := parse(path, string(text))
		all = append(all, b)
		return err
	})
	if err == nil && len(all) == 0 {
		err = errors.New("no breakages")
	}
	return all, err
}

// parse reads a patch file. It ignores line numbers, which may be those of another version.
func parse(path, text string) (breakage, error) {
	b := breakage{patch: path}
	file, in := "", false
	first, rest, _ := strings.Cut(text, "\n")
	b.name = first
	if second, below, _ := strings.Cut(rest, "\n"); strings.HasPrefix(second, caughtBy) {
		b.caughtBy, rest = strings.TrimPrefix(second, caughtBy), below
	}
	for line := range strings.Lines(rest) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "diff --git "):
			_, file, _ = strings.Cut(line, " b/")
			in = false
		case strings.HasPrefix(line, "@@ ") && file != "":
			b.hunks = append(b.hunks, hunk{file: file, header: line})
			in = true
		case !in: // index, ---, +++, or prose below the name
		case line == "": // an empty line whose space an editor removed
			h := &b.hunks[len(b.hunks)-1]
			h.lines = append(h.lines, " ")
		case strings.ContainsRune(" +-", rune(line[0])):
			h := &b.hunks[len(b.hunks)-1]
			h.lines = append(h.lines, line)
		default:
			return b, fmt.Errorf("%s: a line of a hunk begins with a space, - or +: %q", path, line)
		}
	}
	if b.name == "" || len(b.hunks) == 0 {
		return b, fmt.Errorf("%s: want a name, and a diff that begins with diff --git", path)
	}
	return b, nil
}

// files returns the paths of the files that a breakage changes.
func (b breakage) files() []string {
	var all []string
	for _, h := range b.hunks {
		if !slices.Contains(all, h.file) {
			all = append(all, h.file)
		}
	}
	return all
}

// apply returns the texts of the files that a breakage changes in the tree at dir, before and
// after the change, by path. It writes nothing.
func (b breakage) apply(dir string) (before, after map[string]string, err error) {
	before, after = make(map[string]string), make(map[string]string)
	for _, file := range b.files() {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", b.patch, err)
		}
		before[file], after[file] = string(text), string(text)
	}
	for _, h := range b.hunks {
		if after[h.file], err = h.apply(after[h.file]); err != nil {
			return nil, nil, fmt.Errorf("%s: %s: %w\n%s\n%s", b.patch, h.file, err, h.header, strings.Join(h.lines, "\n"))
		}
	}
	return before, after, nil
}

// apply returns text with the change of a hunk, at the one place that its lines fit. If they fit
// nowhere, it leaves out the outer lines of context, one by one, so that a change nearby does
// not break the patch. One line on each side must remain, and the place must then be in the
// same function as before. A hunk that fits nowhere or twice is an error.
func (h hunk) apply(text string) (string, error) {
	context := func(lines []string) int {
		n := slices.IndexFunc(lines, func(line string) bool { return line[0] != ' ' })
		return max(n, 0)
	}
	backwards := slices.Clone(h.lines)
	slices.Reverse(backwards)
	above, below := context(h.lines), context(backwards)
	lines := strings.SplitAfter(text, "\n")
	for keep := max(above, below); keep > 0; keep-- {
		top, bottom := max(0, above-keep), max(0, below-keep)
		kept := h.lines[top : len(h.lines)-bottom]
		places := find(lines, side(kept, '-'))
		if len(places) == 0 {
			continue
		}
		if len(places) > 1 {
			return "", fmt.Errorf("with %d lines of context it fits %d places, want one: give it more context", keep, len(places))
		}
		at := places[0]
		if first := at + above - top; top+bottom > 0 && !strings.HasPrefix(outermost(lines[:first]), h.function(above)) {
			return "", fmt.Errorf("with %d lines of context it fits only line %d, which is in another function", keep, first+1)
		}
		return strings.Join(slices.Replace(lines, at, at+len(side(kept, '-')), side(kept, '+')...), ""), nil
	}
	return "", errors.New("it fits nowhere")
}

// side returns the lines of a hunk before its change, for the sign '-', or after it, for '+'.
func side(hunk []string, sign byte) []string {
	var lines []string
	for _, line := range hunk {
		if line[0] == ' ' || line[0] == sign {
			lines = append(lines, line[1:]+"\n")
		}
	}
	return lines
}

// find returns the indexes in lines at which part begins.
func find(lines, part []string) []int {
	var places []int
	for i := 0; i+len(part) <= len(lines); i++ {
		if slices.Equal(lines[i:i+len(part)], part) {
			places = append(places, i)
		}
	}
	return places
}

// function returns the line that begins the function of a hunk's first change, which has so many
// lines of context above it. A line from the header may be shortened by git.
func (h hunk) function(above int) string {
	if line := outermost(side(h.lines[:above], '-')); line != "" {
		return line
	}
	if parts := strings.SplitN(h.header, "@@ ", 3); len(parts) == 3 {
		return parts[2]
	}
	return ""
}

// beginsFunction matches the lines that git takes for the beginning of a function.
var beginsFunction = regexp.MustCompile(`^[A-Za-z_$]`)

// outermost returns the last of lines that begins a function, or "".
func outermost(lines []string) string {
	for _, line := range slices.Backward(lines) {
		if beginsFunction.MatchString(line) {
			return line
		}
	}
	return ""
}
