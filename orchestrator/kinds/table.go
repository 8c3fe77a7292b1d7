package kinds

import (
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Columns that most tables have.
var (
	nameColumn = metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}
	// createdColumn is what kinds have that Kubernetes has no table for.
	createdColumn = metav1.TableColumnDefinition{Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]}
	ageColumn     = metav1.TableColumnDefinition{Name: "Age", Type: "string", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]}
)

// textColumn is a column of texts, wideColumn one that is only shown to those who want more.
func textColumn(name, doc string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Description: doc}
}

func wideColumn(name, doc string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Priority: 1, Description: doc}
}

// age is how long ago an object was made, as people read it.
func age(o metav1.Object, now time.Time) string {
	return since(o.GetCreationTimestamp().Time, now)
}

// created is a cell of createdColumn.
func created(o metav1.Object) string {
	return o.GetCreationTimestamp().UTC().Format(time.RFC3339)
}

func since(t, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t))
}

// someOf joins the first three texts and says how many more there are.
func someOf(all []string) string {
	const shown = 3
	if len(all) <= shown {
		return strings.Join(all, ",")
	}
	return fmt.Sprintf("%s + %d more...", strings.Join(all[:shown], ","), len(all)-shown)
}

// orText is a text, or another one if it is empty.
func orText(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
