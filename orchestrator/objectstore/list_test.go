package objectstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

func quick(c *Config) { c.FreshTimeout = 150 * time.Millisecond }

// The states of the table: a, b and c were created at r1, r2, r3; at r4 a was deleted; r5 is in the future.
func TestResourceVersions(t *testing.T) {
	f := start(t)
	c := f.store(t, quick).Collection(podKind())
	r1 := create(t, c, pod("n", "a")).Revision
	r2 := create(t, c, pod("n", "b")).Revision
	r3 := create(t, c, pod("m", "c")).Revision
	gone, err := c.Delete(ctx, "n", "a", nil)
	require.NoError(t, err)
	r4 := gone.Revision
	_, err = c.List(ctx, ListQuery{}) // the cache is there now
	require.NoError(t, err)

	const exact, notOlder = metav1.ResourceVersionMatchExact, metav1.ResourceVersionMatchNotOlderThan
	for _, x := range []struct {
		q    ListQuery
		want string // names and revision, or the error's reason
	}{
		{ListQuery{}, "[c b] r4"},
		{ListQuery{Namespace: "n"}, "[b] r4"},
		{ListQuery{Namespace: "x"}, "[] r4"},
		{ListQuery{Limit: 1}, "[c] r4 +1"},
		{ListQuery{Limit: 2}, "[c b] r4"},
		{ListQuery{ResourceVersion: "0"}, "[c b] r4"},
		{ListQuery{ResourceVersion: "0", Limit: 1}, "[c b] r4"},
		{ListQuery{ResourceVersion: "0", Match: notOlder}, "[c b] r4"},
		{ListQuery{ResourceVersion: rv(r2)}, "[c b] r4"},
		{ListQuery{ResourceVersion: rv(r2), Match: notOlder}, "[c b] r4"},
		{ListQuery{ResourceVersion: rv(r2), Match: notOlder, Limit: 1}, "[c] r4 +1"},
		{ListQuery{ResourceVersion: rv(r2), Match: exact}, "[a b] r2"},
		{ListQuery{ResourceVersion: rv(r2), Match: exact, Limit: 1}, "[a] r2 +1"},
		{ListQuery{ResourceVersion: rv(r2), Limit: 1}, "[a] r2 +1"},
		{ListQuery{ResourceVersion: rv(r1), Limit: 1}, "[a] r1"},
		{ListQuery{ResourceVersion: rv(r3), Limit: 2, Namespace: "n"}, "[a b] r3"},
		{ListQuery{ResourceVersion: rv(r4), Match: exact}, "[c b] r4"},
		{ListQuery{ResourceVersion: rv(r4 + 1)}, "Timeout"},
		{ListQuery{ResourceVersion: rv(r4 + 1), Match: exact}, "Timeout"},
		{ListQuery{ResourceVersion: "x"}, "BadRequest"},
		{ListQuery{ResourceVersion: "-1"}, "BadRequest"},
		{ListQuery{Match: exact}, "Invalid"},
		{ListQuery{Match: notOlder}, "Invalid"},
		{ListQuery{ResourceVersion: "0", Match: exact}, "Invalid"},
		{ListQuery{ResourceVersion: "1", Match: "x"}, "Invalid"},
		{ListQuery{Continue: "x"}, "BadRequest"},
		{ListQuery{Continue: encodeContinue("/registry/pods/n/a", "/registry/pods/", r3), ResourceVersion: rv(r2)}, "BadRequest"},
		{ListQuery{Continue: encodeContinue("/registry/pods/n/a", "/registry/pods/", r3), ResourceVersion: rv(r2), Match: exact}, "Invalid"},
		{ListQuery{Continue: encodeContinue("/registry/pods/n/a", "/registry/pods/", r3), ResourceVersion: "0"}, "[a b] r3"},
		{ListQuery{Continue: encodeContinue("/registry/pods/n/a", "/registry/pods/", -1)}, "[b] r4"},
		{ListQuery{Continue: encodeContinue("../nodes/x", "/registry/pods/", r3)}, "BadRequest"},
	} {
		t.Run(fmt.Sprintf("%+v", x.q), func(t *testing.T) {
			p, err := c.List(ctx, x.q)
			got := ""
			if err != nil {
				got = string(apierrors.ReasonForError(err))
			} else {
				for i, r := range []int64{r1, r2, r3, r4} {
					if p.Revision == r {
						got = fmt.Sprintf("%v r%d", names(p.Items), i+1)
					}
				}
				if p.Continue != "" {
					got += fmt.Sprintf(" +%d", *p.Remaining)
				}
			}
			require.Equal(t, x.want, got)
		})
	}

	_, err = c.Get(ctx, "n", "b", rv(r4+1))
	require.True(t, apierrors.IsTimeout(err), err)
	require.True(t, apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge))
	after, ok := apierrors.SuggestsClientDelay(err)
	require.True(t, ok)
	require.Equal(t, 1, after)
	_, err = c.Get(ctx, "n", "b", "x")
	require.True(t, apierrors.IsBadRequest(err), err)
	got, err := c.Get(ctx, "n", "b", rv(r1))
	require.NoError(t, err)
	require.Equal(t, r2, got.Revision)
}

func TestSelectors(t *testing.T) {
	f := start(t)
	c := f.store(t).Collection(podKind())
	for i, ns := range []string{"a", "a", "b"} {
		p := pod(ns, fmt.Sprint("p", i), "i", fmt.Sprint(i))
		p.Spec.NodeName = fmt.Sprint("n", i/2)
		create(t, c, p)
	}
	for _, x := range []struct {
		namespace, labels, fields string
		want                      []string
	}{
		{"", "i in (0,2)", "", []string{"p0", "p2"}},
		{"", "", "spec.nodeName=n0", []string{"p0", "p1"}},
		{"", "", "spec.nodeName!=n0", []string{"p2"}},
		{"", "i=1", "spec.nodeName=n0", []string{"p1"}},
		{"a", "", "metadata.name=p1", []string{"p1"}},
		{"b", "", "metadata.name=p1", nil},
		{"", "", "metadata.name=p1", []string{"p1"}},
		{"", "", "metadata.namespace=b", []string{"p2"}},
		{"", "", "metadata.namespace=b,metadata.name=p2", []string{"p2"}},
		{"a", "", "metadata.namespace=b", nil},
	} {
		q := ListQuery{Namespace: x.namespace, Labels: parse(t, x.labels), Fields: fields.ParseSelectorOrDie(x.fields)}
		p, err := c.List(ctx, q)
		require.NoError(t, err)
		require.Equal(t, x.want, names(p.Items), "%v", x)
		require.Nil(t, p.Remaining)
	}
	p, err := c.List(ctx, ListQuery{Labels: parse(t, "i"), Limit: 2})
	require.NoError(t, err)
	require.NotEmpty(t, p.Continue)
	require.Nil(t, p.Remaining, "with selectors nobody knows")
}

func parse(t testing.TB, s string) labels.Selector {
	t.Helper()
	sel, err := labels.Parse(s)
	require.NoError(t, err)
	return sel
}

// all reads a list in pages, and calls between before each page but the first.
func all(c *Collection, q ListQuery, between func()) (got []string, revision int64, err error) {
	for {
		p, err := c.List(ctx, q)
		if err != nil {
			return got, revision, err
		}
		got = append(got, names(p.Items)...)
		if revision = p.Revision; p.Continue == "" {
			return got, revision, nil
		}
		q.Continue, q.ResourceVersion, q.Match = p.Continue, "", ""
		between()
	}
}

func TestPagesAreOfOneRevision(t *testing.T) {
	f := start(t)
	s := f.store(t, func(c *Config) { c.PageSize = 3 })
	c := s.Collection(podKind())
	var want []string
	for i := range 10 {
		want = append(want, create(t, c, pod("a", fmt.Sprintf("p%02d", i))).Object.GetName())
	}
	first, err := c.List(ctx, ListQuery{})
	require.NoError(t, err)
	require.Equal(t, want, names(first.Items))
	n := 0
	change := func() {
		create(t, c, pod("a", fmt.Sprintf("p%02dx", n)))
		_, err := c.Delete(ctx, "a", fmt.Sprintf("p%02d", 9-n), nil)
		require.NoError(t, err)
		n++
	}
	got, revision, err := all(c, ListQuery{Limit: 4}, change)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Equal(t, first.Revision, revision)

	// The same from the store, which another process reads.
	other := f.store(t).Collection(podKind())
	got, revision, err = all(other, ListQuery{Limit: 4, ResourceVersion: rv(first.Revision), Match: metav1.ResourceVersionMatchExact}, func() {})
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Equal(t, first.Revision, revision)
	got, _, err = all(other, ListQuery{Limit: 2, ResourceVersion: rv(first.Revision), Labels: parse(t, "!x"), Fields: fields.ParseSelectorOrDie("metadata.name!=p00")}, func() {})
	require.NoError(t, err)
	require.Equal(t, want[1:], got)
}

func TestPagesAfterCompaction(t *testing.T) {
	f := start(t)
	c := f.store(t).Collection(podKind())
	for i := range 6 {
		create(t, c, pod("a", fmt.Sprint("p", i)))
	}
	p, err := c.List(ctx, ListQuery{Namespace: "a", Limit: 2})
	require.NoError(t, err)
	require.Equal(t, int64(4), *p.Remaining)
	other := f.store(t).Collection(podKind()) // it has kept nothing
	last := create(t, c, pod("a", "p6")).Revision
	_, err = other.List(ctx, ListQuery{})
	require.NoError(t, err)
	_, err = f.client.Compact(ctx, last, false)
	require.NoError(t, err)

	_, err = other.List(ctx, ListQuery{Namespace: "a", Limit: 2, Continue: p.Continue})
	require.True(t, apierrors.IsResourceExpired(err), err)
	var status apierrors.APIStatus
	require.ErrorAs(t, err, &status)
	token := status.Status().Continue
	require.NotEmpty(t, token)
	got, revision, err := all(other, ListQuery{Namespace: "a", Limit: 2, Continue: token}, func() {})
	require.NoError(t, err)
	require.Equal(t, []string{"p2", "p3", "p4", "p5", "p6"}, got)
	require.Equal(t, last, revision)

	_, err = other.List(ctx, ListQuery{ResourceVersion: rv(p.Revision), Match: metav1.ResourceVersionMatchExact})
	require.True(t, apierrors.IsResourceExpired(err), err)
	require.ErrorAs(t, err, &status)
	require.Empty(t, status.Status().Continue)

	// Who kept the pages goes on consistently.
	got, _, err = all(c, ListQuery{Namespace: "a", Limit: 2, Continue: p.Continue}, func() {})
	require.NoError(t, err)
	require.Equal(t, []string{"p2", "p3", "p4", "p5"}, got)
}

// Reads of now see what others wrote before, through a cache that has not.
func TestConsistentReads(t *testing.T) {
	f := start(t)
	writer, reader := f.store(t).Collection(podKind()), f.store(t).Collection(podKind())
	nodes := f.store(t).Collection(nodeKind())
	for i := range 30 {
		it := create(t, writer, pod("a", fmt.Sprint("p", i)))
		p, err := reader.List(ctx, ListQuery{})
		require.NoError(t, err)
		require.Len(t, p.Items, i+1)
		got, err := reader.Get(ctx, "a", it.Object.GetName(), "")
		require.NoError(t, err)
		require.Equal(t, it.Revision, got.Revision)
		// A quiet kind learns of revisions by progress notifications.
		q, err := nodes.List(ctx, ListQuery{})
		require.NoError(t, err)
		require.GreaterOrEqual(t, q.Revision, it.Revision)
	}
}
