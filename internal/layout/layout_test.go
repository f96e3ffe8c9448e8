package layout

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
)

const (
	module = "github.com/phantommesh/phantommesh"
	root   = "../.."

	fileLinesMax     = 600
	functionLinesMax = 70 // tests are exempt: a table test is as long as its table
	parametersMax    = 5
)

// levels is the picture of docs/architecture.md: a package imports what has a lower level, never a
// sister on its own. The longest prefix of its folder gives a package its level.
var levels = map[string]int{
	"cmd":         7,
	"api":         6,
	"sim":         6,
	"node":        5,
	"coordinator": 4,
	"gossip":      4,
	"reach":       4,
	"discovery":   4,
	"dataplane":   4,
	"control":     3,
	"underlay":    2,
	"nat":         2,
	"place":       2,
	"peer":        1,
	"policy":      1,
	"crypto":      0,
	"internal":    0,
	"testdata":    0,
	"test":        8,
}

// importExceptions are imports against the order, "importer imported", each with its reason.
var importExceptions = map[string]string{
	"underlay nat": "the check codec and plan; design: nat owns no socket, the underlay gives it one",
}

// budgetExceptions are files ("path") and functions ("path Name") over a budget, each with its reason.
var budgetExceptions = map[string]string{
	"coordinator/kept.go Create": "raft.SnapshotStore has that many",
}

// file is one parsed source file.
type file struct {
	path, folder string // slash-separated, from the repository's root
	syntax       *ast.File
	lines        int
	test         bool
}

func TestImportsPointDownward(t *testing.T) {
	files, _ := sources(t)
	used := map[string]bool{}
	for _, f := range files {
		if f.test {
			continue // a test may stand anywhere to look at its package
		}
		for _, spec := range f.syntax.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			imported, ours := strings.CutPrefix(path, module+"/")
			if !ours {
				continue
			}
			pair := house(f.folder) + " " + house(imported)
			if _, ok := importExceptions[pair]; ok {
				used[pair] = true
				continue
			}
			if err := allowed(f.folder, imported); err != nil {
				t.Errorf("%s: %v", f.path, err)
			}
		}
	}
	for pair, why := range importExceptions {
		if why == "" {
			t.Errorf("import exception %q gives no reason", pair)
		}
		if !used[pair] {
			t.Logf("import exception %q is not needed now", pair)
		}
	}
}

func TestTheImportRuleTellsUpFromDown(t *testing.T) {
	for _, c := range []struct {
		importer, imported string
		ok                 bool
	}{
		{"node", "gossip", true},
		{"gossip", "node", false},
		{"gossip", "coordinator", false}, // sisters
		{"crypto/exchange", "crypto/identity", true},
		{"crypto/identity", "peer", false},
		{"api/web", "api", true}, // one house
		{"control", "internal/wire", true},
		{"internal/wire", "crypto/identity", true},
		{"internal/wire", "peer", false},
		{"attic", "peer", false}, // no level
	} {
		if err := allowed(c.importer, c.imported); (err == nil) != c.ok {
			t.Errorf("%s imports %s: %v, want allowed=%v", c.importer, c.imported, err, c.ok)
		}
	}
}

func TestEveryPackageExplainsItself(t *testing.T) {
	files, _ := sources(t)
	explained := map[string]bool{}
	for _, f := range files {
		if f.test {
			continue
		}
		doc := f.syntax.Doc.Text()
		good := strings.HasPrefix(doc, "Package "+f.syntax.Name.Name+" ") || strings.HasPrefix(doc, "Command ")
		explained[f.folder] = explained[f.folder] || good && (filepath.Base(f.path) == "doc.go")
	}
	for folder, ok := range explained {
		if !ok {
			t.Errorf("%s has no doc.go with a package comment", folder)
		}
	}
}

func TestBudgets(t *testing.T) {
	files, set := sources(t)
	over := map[string]string{}
	for _, f := range files {
		if f.lines > fileLinesMax {
			over[f.path] = fmt.Sprintf("%d lines, at most %d", f.lines, fileLinesMax)
		}
		if f.test {
			continue
		}
		for _, decl := range f.syntax.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			name := f.path + " " + fn.Name.Name
			if n := set.Position(fn.End()).Line - set.Position(fn.Pos()).Line + 1; n > functionLinesMax {
				over[name] = fmt.Sprintf("%d lines, at most %d", n, functionLinesMax)
			}
			if n := fn.Type.Params.NumFields(); n > parametersMax {
				over[name] = fmt.Sprintf("%d parameters, at most %d", n, parametersMax)
			}
		}
	}
	for _, name := range sorted(over) {
		if budgetExceptions[name] == "" {
			t.Errorf("%s: %s", name, over[name])
		}
	}
	for name := range budgetExceptions {
		if over[name] == "" {
			t.Errorf("the exception for %s is not needed any more: remove it", name)
		}
	}
}

// allowed reports why a folder may not import another, nil if it may.
func allowed(importer, imported string) error {
	from, ok := levels[house(importer)]
	if !ok {
		return fmt.Errorf("folder %s has no level: add it to the table and to docs/architecture.md", importer)
	}
	to, ok := levels[house(imported)]
	switch {
	case !ok:
		return fmt.Errorf("imports %s, which has no level", imported)
	case house(importer) == house(imported), to < from:
		return nil
	case from == 0 && to == 0: // crypto and internal lean on each other; Go itself forbids circles
		return nil
	case to == from:
		return fmt.Errorf("%s (level %d) imports its sister %s: they meet in node", importer, from, imported)
	}
	return fmt.Errorf("%s (level %d) imports %s (level %d): imports point downward", importer, from, imported, to)
}

// house is the first element of a folder: api for api/web.
func house(folder string) string {
	first, _, _ := strings.Cut(folder, "/")
	return first
}

// sources parses every Go file of the repository that is written by hand.
func sources(t *testing.T) ([]file, *token.FileSet) {
	t.Helper()
	set := token.NewFileSet()
	var files []file
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		syntax, err := parser.ParseFile(set, path, source, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil || ast.IsGenerated(syntax) {
			return err
		}
		relative = filepath.ToSlash(relative)
		files = append(files, file{
			path: relative, folder: filepath.ToSlash(filepath.Dir(relative)), syntax: syntax,
			lines: strings.Count(string(source), "\n"), test: strings.HasSuffix(name, "_test.go"),
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("found no Go files: the rules would check nothing")
	}
	return files, set
}

func sorted(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
