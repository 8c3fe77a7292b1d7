package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestNamedTests finds every test that these pages name, as `package: Test`.
func TestNamedTests(t *testing.T) {
	tests := map[string]string{} // the test files of a package, put together
	for _, file := range goFiles(t) {
		if !strings.HasSuffix(file, "_test.go") {
			continue
		}
		src, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		tests[filepath.ToSlash(filepath.Dir(file))] += string(src)
	}
	for _, page := range []string{"docs/etcd-compatibility.md", "docs/contributing/regressions.md"} {
		doc, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		named := regexp.MustCompile("`([a-z0-9/]+): (Test\\w+)`").FindAllStringSubmatch(string(doc), -1)
		if len(named) < 20 {
			t.Fatalf("%s names only %d tests", page, len(named))
		}
		for _, n := range named {
			if !strings.Contains(tests[n[1]], "func "+n[2]+"(t *testing.T)") {
				t.Errorf("%s: %s has no test %s", page, n[1], n[2])
			}
		}
	}
}

// TestRegressionsAreNamed compares the numbers in the page of regressions with those in the names of tests: none is without the
// other.
func TestRegressionsAreNamed(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(root, "docs/contributing/regressions.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows, names := map[string]bool{}, map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| (\d{5}) \|`).FindAllStringSubmatch(string(doc), -1) {
		rows[row[1]] = true
	}
	number := regexp.MustCompile(`\d{5}`)
	for _, file := range goFiles(t) {
		if !strings.HasSuffix(file, "_test.go") {
			continue
		}
		src, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`func TestEtcd(\d{5}\w*)\(t`).FindAllStringSubmatch(string(src), -1) {
			for _, n := range number.FindAllString(name[1], -1) {
				names[n] = true
			}
		}
	}
	for n := range rows {
		if !names[n] {
			t.Errorf("no test is named after etcd's issue %s", n)
		}
	}
	for n := range names {
		if !rows[n] {
			t.Errorf("etcd's issue %s has a test, and no row in docs/contributing/regressions.md", n)
		}
	}
	if len(rows) < 36 {
		t.Errorf("only %d rows", len(rows))
	}
}
