package crd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/util/jsonpath"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// compilePath returns a path for objects that may lack what it leads to.
func compilePath(p string) (*jsonpath.JSONPath, error) {
	j := jsonpath.New(p).AllowMissingKeys(true)
	if err := j.Parse("{" + p + "}"); err != nil {
		return nil, fmt.Errorf("JSON path %q: %w", p, err)
	}
	return j, nil
}

// find returns the first value at a path, nil if there is none.
func find(j *jsonpath.JSONPath, o kinds.Object) any {
	results, err := j.FindResults(content(o).Object)
	if err != nil || len(results) == 0 || len(results[0]) == 0 {
		return nil
	}
	return results[0][0].Interface()
}

// selectable returns the names of selectable fields, and what finds their values.
func selectable(fields []apiextensionsv1.SelectableField) (names []string, values func(kinds.Object) map[string]string) {
	paths := make(map[string]*jsonpath.JSONPath, len(fields))
	for _, f := range fields {
		name := strings.TrimPrefix(f.JSONPath, ".")
		if j, err := compilePath(f.JSONPath); err == nil { // it was validated
			names, paths[name] = append(names, name), j
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	return names, func(o kinds.Object) map[string]string {
		out := make(map[string]string, len(paths))
		for name, j := range paths {
			out[name] = ""
			if v := find(j, o); v != nil {
				out[name] = fmt.Sprint(v)
			}
		}
		return out
	}
}

// table returns the columns of a table, of which the first is the name, and what makes its rows.
func table(columns []apiextensionsv1.CustomResourceColumnDefinition) ([]metav1.TableColumnDefinition, func(kinds.Object, time.Time) []any) {
	docs := metav1.ObjectMeta{}.SwaggerDoc()
	headers := []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name", Description: docs["name"]}}
	if len(columns) == 0 {
		columns = []apiextensionsv1.CustomResourceColumnDefinition{
			{Name: "Age", Type: "date", Description: docs["creationTimestamp"], JSONPath: ".metadata.creationTimestamp"},
		}
	}
	var paths []*jsonpath.JSONPath
	for _, c := range columns {
		j, err := compilePath(c.JSONPath)
		if err != nil {
			break // as kube-apiserver does
		}
		text := c.Description
		if text == "" {
			text = "Custom resource definition column (in JSONPath format): " + c.JSONPath
		}
		paths = append(paths, j)
		headers = append(headers, metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: text, Priority: c.Priority})
	}
	return headers, func(o kinds.Object, now time.Time) []any {
		cells := make([]any, 1, len(headers))
		cells[0] = o.GetName()
		for i, j := range paths {
			cells = append(cells, cell(j, headers[i+1].Type, find(j, o), now))
		}
		return cells
	}
}

// cell is a value as a column of some type shows it.
func cell(j *jsonpath.JSONPath, columnType string, value any, now time.Time) any {
	if value == nil {
		return nil
	}
	switch columnType {
	case "string":
		var b bytes.Buffer
		if err := j.PrintResults(&b, []reflect.Value{reflect.ValueOf(value)}); err == nil {
			return b.String()
		}
	case "integer":
		switch n := value.(type) {
		case int64:
			return n
		case float64:
			return int64(n)
		case json.Number:
			if i, err := n.Int64(); err == nil {
				return i
			}
		}
	case "number":
		switch n := value.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		case json.Number:
			if f, err := n.Float64(); err == nil {
				return f
			}
		}
	case "boolean":
		if b, ok := value.(bool); ok {
			return b
		}
	case "date":
		if s, ok := value.(string); ok {
			return date(s, now)
		}
	}
	return nil
}

func date(text string, now time.Time) string {
	var t metav1.Time
	switch err := t.UnmarshalQueryParameter(text); {
	case err != nil:
		return "<invalid>"
	case t.IsZero():
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}
