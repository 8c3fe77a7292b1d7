// Package expansion replaces $(NAME) in strings of a pod by the values of variables, as Kubernetes does in commands,
// arguments, values of variables and subPathExpr.
//
// "$$" is a dollar sign that begins no reference: "$$(NAME)" becomes "$(NAME)". A reference to a variable that is not there,
// and a dollar sign that begins neither, stay as they are.
//
// # Concurrency
//
// Functions without state: call them from anywhere.
package expansion

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Lookup finds the value of a variable.
type Lookup func(name string) (value string, found bool)

// Of looks variables up in maps. The first map that has one wins.
func Of(maps ...map[string]string) Lookup {
	return func(name string) (string, bool) {
		for _, m := range maps {
			if v, ok := m[name]; ok {
				return v, true
			}
		}
		return "", false
	}
}

// Vars makes a map of variables. Of two of the same name the later wins.
func Vars(env []corev1.EnvVar) map[string]string {
	m := make(map[string]string, len(env))
	for _, e := range env {
		m[e.Name] = e.Value
	}
	return m
}

// Expand replaces what it can.
func Expand(s string, get Lookup) string {
	out, _ := expand(s, get)
	return out
}

// Strict is Expand, but a reference to a variable that is not there is an error.
func Strict(s string, get Lookup) (string, error) {
	out, missing := expand(s, get)
	if len(missing) > 0 {
		return "", fmt.Errorf("missing value for %q", missing[0])
	}
	return out, nil
}

// All expands every string of a command or of its arguments.
func All(list []string, get Lookup) []string {
	if list == nil {
		return nil
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = Expand(s, get)
	}
	return out
}

// Static looks up those variables of a container whose values stand in its spec: what an exec probe may refer to.
func Static(env []corev1.EnvVar) Lookup {
	return Of(Vars(slices.DeleteFunc(slices.Clone(env), func(e corev1.EnvVar) bool { return e.ValueFrom != nil })))
}

// expand does one pass: what is put in is not looked at again. missing are the names that get does not know.
func expand(s string, get Lookup) (out string, missing []string) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "$")
		b.WriteString(before)
		if !found {
			return b.String(), missing
		}
		name, rest, reference := reference(after)
		switch {
		case reference:
			if value, ok := get(name); ok {
				b.WriteString(value)
			} else {
				missing = append(missing, name)
				b.WriteString("$(" + name + ")")
			}
			s = rest
		case strings.HasPrefix(after, "$"):
			b.WriteByte('$')
			s = after[1:]
		default: // a dollar sign, and the rest as it is
			b.WriteByte('$')
			s = after
		}
	}
}

// reference reads "(NAME)" at the start of what follows a dollar sign.
func reference(s string) (name, rest string, ok bool) {
	if !strings.HasPrefix(s, "(") {
		return "", s, false
	}
	return strings.Cut(s[1:], ")")
}
