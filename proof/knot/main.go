// Command knot measures how much of a package its reader must know at once. It counts the
// files, the exported top-level names, and the largest group of files that need each other.
//
//	go run ./proof/knot                                 print the counts
//	go run ./proof/knot -files 24 -names 40 -knot 6     and fail when one is larger
//	go run ./proof/knot -v                              and print why files of the group need each other
//
// A file needs another one if it uses an identifier that the other declares, a method or a
// field included. In a group of files that need each other, each needs every other one, if
// only by way of a third: none can be read without the others. A compiler has no objection
// to that within a package, so this command has.
//
// It looks at the package in the current folder or in the one that is its argument. Tests and
// generated files do not count. It also fails if a package in the folder's internal depends on
// the package, as imports must run one way.
package main

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	var most limits
	flag.IntVar(&most.files, "files", 0, "fail when there are more files; 0 is no limit")
	flag.IntVar(&most.names, "names", 0, "fail when there are more exported top-level names; 0 is no limit")
	flag.IntVar(&most.knot, "knot", 0, "fail when more files need each other; 0 is no limit")
	verbose := flag.Bool("v", false, "print why files of the largest group need each other")
	flag.Parse()
	dir := "."
	if flag.NArg() > 0 {
		dir = flag.Arg(0)
	}
	p, err := load(dir)
	if err == nil {
		fmt.Printf("%d files, %d exported names, %d files that need each other: %s\n",
			len(p.files), len(p.names), len(p.knot()), strings.Join(p.knot(), " "))
		if *verbose {
			p.explain(os.Stdout)
		}
		err = p.exceeds(most)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "knot:", err)
		os.Exit(1)
	}
}

// pkg has the findings on a package.
type pkg struct {
	files []string
	names []string                     // exported and top-level
	needs map[string]map[string]string // an identifier, by the file that uses it and the file that declares it
	below []string                     // packages in its internal that depend on it
}

// limits has the most of each count that is allowed; 0 is no limit.
type limits struct{ files, names, knot int }

// exceeds returns an error for each limit that p exceeds, and for each package in its internal
// that depends on it.
func (p pkg) exceeds(most limits) error {
	var err error
	for _, c := range []struct {
		count      string
		have, most int
	}{
		{"files", len(p.files), most.files},
		{"exported names", len(p.names), most.names},
		{"files that need each other", len(p.knot()), most.knot},
	} {
		if c.most > 0 && c.have > c.most {
			err = errors.Join(err, fmt.Errorf("%d %s, want at most %d", c.have, c.count, c.most))
		}
	}
	for _, path := range p.below {
		err = errors.Join(err, fmt.Errorf("%s depends on the package above it", path))
	}
	return err
}

// knot returns the largest group of files each of which needs every other one.
func (p pkg) knot() []string {
	reached := make(map[string]map[string]bool)
	for _, file := range p.files {
		reached[file] = make(map[string]bool)
		p.reach(file, reached[file])
	}
	var largest []string
	for _, file := range p.files {
		var group []string
		for _, other := range p.files {
			if other == file || reached[file][other] && reached[other][file] {
				group = append(group, other)
			}
		}
		if len(group) > len(largest) {
			largest = group
		}
	}
	return largest
}

// reach adds to reached the files that file needs, also by way of others.
func (p pkg) reach(file string, reached map[string]bool) {
	for other := range p.needs[file] {
		if !reached[other] {
			reached[other] = true
			p.reach(other, reached)
		}
	}
}

// explain prints, for each two files of the knot of which one needs the other, an identifier by
// which it does.
func (p pkg) explain(w io.Writer) {
	knot := p.knot()
	for _, file := range knot {
		for _, other := range slices.Sorted(maps.Keys(p.needs[file])) {
			if slices.Contains(knot, other) {
				fmt.Fprintf(w, "%s needs %s: %s\n", file, other, p.needs[file][other])
			}
		}
	}
}

// load type-checks the package in a folder. The packages that it imports are not parsed: the go
// command has compiled them, with the types that they export.
func load(dir string) (pkg, error) {
	p := pkg{needs: make(map[string]map[string]string)}
	list, err := goList(dir, "-f", "{{.ImportPath}}\n{{join .GoFiles \"\\n\"}}", ".")
	if err != nil {
		return p, err
	}
	path, fileNames := list[0], list[1:]
	exports, err := exportData(dir)
	if err != nil {
		return p, err
	}
	set := token.NewFileSet()
	var files []*ast.File
	for _, name := range fileNames {
		file, err := parser.ParseFile(set, filepath.Join(dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return p, err
		}
		files = append(files, file)
		if !ast.IsGenerated(file) {
			p.files = append(p.files, name)
		}
	}
	info := &types.Info{Uses: make(map[*ast.Ident]types.Object)}
	config := types.Config{Importer: importer.ForCompiler(set, "gc", exports)}
	checked, err := config.Check(path, set, files, info)
	if err != nil {
		return p, err
	}
	for _, name := range checked.Scope().Names() {
		if token.IsExported(name) {
			p.names = append(p.names, name)
		}
	}
	fileOf := func(pos token.Pos) string { return filepath.Base(set.Position(pos).Filename) }
	for id, object := range info.Uses {
		if object.Pkg() != checked {
			continue
		}
		user, declarer := fileOf(id.Pos()), fileOf(object.Pos())
		if user == declarer || !slices.Contains(p.files, user) || !slices.Contains(p.files, declarer) {
			continue
		}
		if p.needs[user] == nil {
			p.needs[user] = make(map[string]string)
		}
		if known := p.needs[user][declarer]; known == "" || id.Name < known { // the same identifier in each run
			p.needs[user][declarer] = id.Name
		}
	}
	p.below, err = dependents(dir, path)
	return p, err
}

// exportData returns a lookup of the compiled packages on which the one in dir depends.
func exportData(dir string) (importer.Lookup, error) {
	list, err := goList(dir, "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", ".")
	if err != nil {
		return nil, err
	}
	files := make(map[string]string)
	for _, line := range list {
		path, file, _ := strings.Cut(line, "\t")
		files[path] = file
	}
	return func(path string) (io.ReadCloser, error) { return os.Open(files[path]) }, nil
}

// dependents returns the packages in dir's internal that depend on the package path.
func dependents(dir, path string) ([]string, error) {
	list, err := goList(dir, "-f", "{{.ImportPath}} {{join .Deps \" \"}}", "./internal/...")
	var found []string
	for _, line := range list {
		packages := strings.Fields(line)
		if slices.Contains(packages[1:], path) {
			found = append(found, packages[0])
		}
	}
	return found, err
}

// goList returns the lines that go list prints in a folder.
func goList(dir string, args ...string) ([]string, error) {
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = dir
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, complaint.String())
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' }), nil
}
