package rights

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// answering is an Authorizer that remembers what it was asked.
type answering struct {
	d     Decision
	err   error
	asked Attributes
}

func (a *answering) Authorize(_ context.Context, asked Attributes) (Decision, string, error) {
	a.asked = asked
	return a.d, "because", a.err
}

func TestHandler(t *testing.T) {
	for _, c := range []struct {
		by       *answering
		want     string
		decision string
		reason   string
	}{
		{&answering{d: Allow, err: errors.New("and yet")}, "", "allow", "because"},
		{&answering{}, `pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "ns": because`, "forbid", "because"},
		{&answering{d: Deny}, "is forbidden", "forbid", "because"},
		{&answering{err: errors.New("oops")}, "Internal error occurred: oops", "", "internal error"},
	} {
		notes, passed := map[string]string{}, false
		var failed error
		h := Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed = true }), c.by,
			func(_ context.Context, k, v string) { notes[k] = v }, func(_ http.ResponseWriter, _ *http.Request, err error) { failed = err })
		r := httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/ns/pods?fieldSelector=spec.nodeName%3Dn&labelSelector=a%20in%20(b)", nil)
		r = r.WithContext(request.WithUser(r.Context(), &request.User{Name: "u"}))
		h.ServeHTTP(httptest.NewRecorder(), r)
		require.Equal(t, c.want == "", passed)
		if c.want != "" {
			require.ErrorContains(t, failed, c.want)
		}
		require.Equal(t, c.decision, notes["authorization.k8s.io/decision"])
		require.Equal(t, c.reason, notes["authorization.k8s.io/reason"])
		require.Len(t, c.by.asked.Fields, 1)
		require.Len(t, c.by.asked.Labels, 1)
		require.Equal(t, "list", c.by.asked.Verb)
	}
}

func TestAnswer(t *testing.T) {
	ctx := context.Background()
	u := &request.User{Name: "u", UID: "7", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}}
	by := &answering{d: Deny, err: errors.New("oops")}
	s := Answer(ctx, by, ReviewOf(u, &authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
		Verb: "list", Resource: "pods", Subresource: "log", Namespace: "ns",
		FieldSelector: &authorizationv1.FieldSelectorAttributes{Requirements: []metav1.FieldSelectorRequirement{
			{Key: "a", Operator: metav1.FieldSelectorOpIn, Values: []string{"b"}}, {Key: "a", Operator: "?"}}},
		LabelSelector: &authorizationv1.LabelSelectorAttributes{RawSelector: "=,"},
	}}))
	require.Equal(t, authorizationv1.SubjectAccessReviewStatus{Denied: true, Reason: "because",
		EvaluationError: "oops; spec.resourceAttributes.fieldSelector partially ignored due to parse error; spec.resourceAttributes.labelSelector ignored due to parse error"}, s)
	require.Equal(t, u, by.asked.User)
	require.Equal(t, "*", by.asked.Version)
	require.Len(t, by.asked.Fields, 1)

	by = &answering{d: Allow}
	s = Answer(ctx, by, &authorizationv1.SubjectAccessReviewSpec{User: "u", NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/x", Verb: "get"}})
	require.True(t, s.Allowed)
	require.Empty(t, s.EvaluationError)
	require.Equal(t, Attributes{User: &request.User{Name: "u"}, Path: "/x", Verb: "get"}, by.asked)

	s = Answer(ctx, by, &authorizationv1.SubjectAccessReviewSpec{User: "u", ResourceAttributes: &authorizationv1.ResourceAttributes{
		FieldSelector: &authorizationv1.FieldSelectorAttributes{RawSelector: "a=b"},
		LabelSelector: &authorizationv1.LabelSelectorAttributes{Requirements: []metav1.LabelSelectorRequirement{
			{Key: "a", Operator: metav1.LabelSelectorOpExists}, {Key: "a", Operator: "?"}, {Key: "a", Operator: metav1.LabelSelectorOpIn}}}}})
	require.Equal(t, "spec.resourceAttributes.labelSelector partially ignored due to parse error", s.EvaluationError)
	require.Len(t, by.asked.Labels, 1)
}

func TestValidateReview(t *testing.T) {
	require.Empty(t, ValidateReview(&authorizationv1.SubjectAccessReviewSpec{Groups: []string{"g"}, ResourceAttributes: &authorizationv1.ResourceAttributes{}}))
	require.Len(t, ValidateReview(&authorizationv1.SubjectAccessReviewSpec{}), 2)
	require.Len(t, ValidateReview(&authorizationv1.SubjectAccessReviewSpec{User: "u", ResourceAttributes: &authorizationv1.ResourceAttributes{},
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{}}), 1)
	require.Len(t, ValidateReview(&authorizationv1.SubjectAccessReviewSpec{User: "u", ResourceAttributes: &authorizationv1.ResourceAttributes{
		FieldSelector: &authorizationv1.FieldSelectorAttributes{},
		LabelSelector: &authorizationv1.LabelSelectorAttributes{RawSelector: "a", Requirements: []metav1.LabelSelectorRequirement{{}}}}}), 2)
}
