package apimachinery

import (
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

const (
	templates    = 400
	templatePage = 17
)

// history is held by who reads it in chunks. Who compacts it excludes them.
var history sync.RWMutex

func manyTemplates(t *testing.T, e *conformance.Env) {
	t.Helper()
	var g errgroup.Group
	g.SetLimit(20)
	for i := range templates {
		g.Go(func() error {
			_, err := e.Client.CoreV1().PodTemplates(e.NS).Create(e.Ctx, template(metav1.ObjectMeta{Name: fmt.Sprintf("template-%04d", i)}), metav1.CreateOptions{})
			return err
		})
	}
	require.NoError(t, g.Wait())
}

func oneTemplate(t *testing.T, e *conformance.Env, namespace string) {
	t.Helper()
	_, err := e.Client.CoreV1().PodTemplates(namespace).Create(e.Ctx, template(metav1.ObjectMeta{GenerateName: "other-"}), metav1.CreateOptions{})
	require.NoError(t, err)
}

func template(m metav1.ObjectMeta) *corev1.PodTemplate {
	return &corev1.PodTemplate{
		ObjectMeta: m, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "test", Image: "test2"}}}},
	}
}

// page lists a chunk that begins after those that were found, and returns how many are found then.
func page(t *testing.T, e *conformance.Env, o metav1.ListOptions, found int) (*corev1.PodTemplateList, int) {
	t.Helper()
	l, err := e.Client.CoreV1().PodTemplates(e.NS).List(e.Ctx, o)
	require.NoError(t, err)
	require.LessOrEqual(t, len(l.Items), int(o.Limit))
	for _, item := range l.Items {
		require.Equal(t, fmt.Sprintf("template-%04d", found), item.Name)
		found++
	}
	if l.Continue == "" {
		require.Nil(t, l.RemainingItemCount)
	} else {
		require.NotNil(t, l.RemainingItemCount)
		require.Equal(t, templates, found+int(*l.RemainingItemCount))
	}
	return l, found
}

// rest lists all chunks that follow one, in its version.
func rest(t *testing.T, e *conformance.Env, l *corev1.PodTemplateList, limit int64, found int) {
	t.Helper()
	version := l.ResourceVersion
	for l.Continue != "" {
		l, found = page(t, e, metav1.ListOptions{Limit: limit, Continue: l.Continue}, found)
		require.Equal(t, version, l.ResourceVersion)
	}
	require.Equal(t, templates, found)
}

func chunks(t *testing.T, e *conformance.Env) {
	manyTemplates(t, e)
	history.RLock()
	defer history.RUnlock()
	for range 3 {
		l, found := page(t, e, metav1.ListOptions{Limit: templatePage}, 0)
		require.NotEmpty(t, l.Continue)
		rest(t, e, l, templatePage, found)
	}
	l, found := page(t, e, metav1.ListOptions{Limit: templates + 1}, 0)
	require.Empty(t, l.Continue)
	require.Equal(t, templates, found)
}

func chunksAfterCompaction(t *testing.T, e *conformance.Env) {
	const tenth = templates / 10
	manyTemplates(t, e)
	history.Lock()
	defer history.Unlock()
	first, found := page(t, e, metav1.ListOptions{Limit: tenth}, 0)
	require.NotEmpty(t, first.Continue)
	// The store forgets the version that was listed. Others may read later ones.
	makeMap(t, e, "later", "later")
	version, err := strconv.ParseInt(first.ResourceVersion, 10, 64)
	require.NoError(t, err)
	_, err = e.Store(t).Compact(e.Ctx, version+1, false)
	require.NoError(t, err)

	var expired error
	other := e.Namespace(t)
	eventually(t, e, func() error {
		_, expired = e.Client.CoreV1().PodTemplates(e.NS).List(e.Ctx, metav1.ListOptions{Limit: tenth, Continue: first.Continue})
		if expired != nil {
			return nil
		}
		// The API server remembers versions for a while. Others take its place.
		for range 40 {
			oneTemplate(t, e, other)
			_, err := e.Client.CoreV1().PodTemplates("").List(e.Ctx, metav1.ListOptions{Limit: 1})
			require.NoError(t, err)
		}
		return fmt.Errorf("the token has not expired")
	})
	require.True(t, apierrors.IsResourceExpired(expired), "%v", expired)
	status, ok := expired.(apierrors.APIStatus)
	require.True(t, ok)
	inconsistent := status.Status().Continue
	require.NotEmpty(t, inconsistent)
	second, found := page(t, e, metav1.ListOptions{Limit: tenth, Continue: inconsistent}, found)
	require.Len(t, second.Items, tenth)
	require.NotEqual(t, first.ResourceVersion, second.ResourceVersion)
	rest(t, e, second, tenth, found)
}

func noTableOfReviews(t *testing.T, e *conformance.Env) {
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/", Verb: "get"},
	}}
	err := e.Client.AuthorizationV1().RESTClient().Post().Resource("selfsubjectaccessreviews").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Body(review).Do(e.Ctx).Into(&metav1.Table{})
	var status apierrors.APIStatus
	require.ErrorAs(t, err, &status)
	require.Equal(t, int32(406), status.Status().Code)
}
