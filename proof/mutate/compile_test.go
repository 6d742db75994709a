package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/cacheaside/aside"

// A breakage that does not compile tests nothing, and ends a run of the tool. Each package
// that a breakage changes is type-checked.
func TestBreakagesCompile(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	breakages, err := readBreakages(os.DirFS("breakages"))
	if err != nil {
		t.Fatal(err)
	}
	exports := exportData(t, root)
	fset := token.NewFileSet()
	lookup := func(path string) (io.ReadCloser, error) {
		file, ok := exports[path]
		if !ok {
			return nil, fmt.Errorf("no export data of %s", path)
		}
		return os.Open(file)
	}
	check := types.Config{Importer: importer.ForCompiler(fset, "gc", lookup)}
	unbroken := make(map[string]*ast.File)
	parse := func(name string, text any) *ast.File {
		file, err := parser.ParseFile(fset, name, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, b := range breakages {
		_, after, err := b.apply(root)
		if err != nil {
			continue // TestBreakagesApply says so
		}
		for _, dir := range dirs(after) {
			info, err := build.ImportDir(filepath.Join(root, dir), 0)
			if err != nil {
				t.Fatal(err)
			}
			var files []*ast.File
			for _, name := range info.GoFiles {
				name = path.Join(dir, name)
				if text, ok := after[name]; ok {
					files = append(files, parse(name, text))
					continue
				}
				if unbroken[name] == nil {
					unbroken[name] = parse(filepath.Join(root, name), nil)
				}
				files = append(files, unbroken[name])
			}
			if _, err := check.Check(path.Join(module, dir), fset, files, nil); err != nil {
				t.Errorf("%s: %v", b.patch, err)
			}
		}
	}
}

// dirs returns the folders of Go files.
func dirs(files map[string]string) []string {
	seen := make(map[string]bool)
	var all []string
	for file := range files {
		if dir := path.Dir(file); !seen[dir] && path.Ext(file) == ".go" {
			seen[dir] = true
			all = append(all, dir)
		}
	}
	return all
}

// exportData returns the files with the export data of the module's packages and of those that
// they import, by package path.
func exportData(t *testing.T, root string) map[string]string {
	cmd := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", "./...")
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stderr = root, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	files := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		if path, file, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && file != "" {
			files[path] = file
		}
	}
	return files
}
