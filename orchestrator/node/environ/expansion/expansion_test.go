package expansion

import (
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

var vars = map[string]string{"A": "one", "B": "two", "EMPTY": "", "NESTED": "$(A)", "a.b-c": "odd"}

func TestExpand(t *testing.T) {
	for in, want := range map[string]string{
		"":                   "",
		"plain":              "plain",
		"$(A)":               "one",
		"x$(A)y$(B)z":        "xoneytwoz",
		"$(EMPTY)|":          "|",
		"$(NESTED)":          "$(A)", // not twice
		"$(GONE)":            "$(GONE)",
		"$$(A)":              "$(A)",
		"$$$(A)":             "$one",
		"$$$$(A)":            "$$(A)",
		"$":                  "$",
		"a$":                 "a$",
		"$A ${A}":            "$A ${A}",
		"$(A":                "$(A",
		"$()":                "$()",
		"$(A)$(":             "one$(",
		"$(a.b-c)":           "odd",
		"$($(A))":            "$($(A))",
		"foo $(A) $$ $x $$y": "foo one $ $x $y",
		"--mst=$(A)-$(B":     "--mst=one-$(B",
	} {
		if got := Expand(in, Of(vars)); got != want {
			t.Errorf("Expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestStrict(t *testing.T) {
	if got, err := Strict("$(A)/$$(GONE)", Of(vars)); err != nil || got != "one/$(GONE)" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := Strict("$(A)/$(GONE)", Of(vars)); err == nil || err.Error() != `missing value for "GONE"` {
		t.Errorf("got %v", err)
	}
}

func TestLists(t *testing.T) {
	get := Of(map[string]string{"A": "first"}, vars)
	if got := All([]string{"$(A)", "$(B)"}, get); !reflect.DeepEqual(got, []string{"first", "two"}) {
		t.Errorf("got %q", got)
	}
	if All(nil, get) != nil {
		t.Error("no list became one")
	}
	static := Static([]corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", ValueFrom: &corev1.EnvVarSource{}}})
	if got := Expand("$(A)$(B)", static); got != "1$(B)" {
		t.Errorf("got %q", got)
	}
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{"$(A)", "$$(A)", "$(", "a$b$$c$(B)"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		get := Of(vars)
		out := Expand(s, get)
		if !strings.Contains(s, "$") && out != s {
			t.Errorf("%q became %q", s, out)
		}
		// every dollar sign escaped: nothing is replaced
		if got := Expand(strings.ReplaceAll(s, "$", "$$"), get); got != s {
			t.Errorf("escaped %q became %q", s, got)
		}
		// concatenation of what ends in no open reference
		if got := Expand("$(A)"+s, get); got != "one"+out {
			t.Errorf("%q after a reference: %q, want %q", s, got, "one"+out)
		}
	})
}
