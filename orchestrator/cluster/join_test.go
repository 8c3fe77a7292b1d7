package cluster_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keelson-io/keelson/internal/jointoken"
	"github.com/keelson-io/keelson/orchestrator/cluster"
	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
	"github.com/keelson-io/keelson/orchestrator/node/registration"
)

// TestJoinCommand: what the command says is enough to find the cluster, believe it, and be somebody there; and nothing less is.
func TestJoinCommand(t *testing.T) {
	c := clustertest.Start(t)
	tokens, err := cluster.NewTokens(c.Config)
	require.NoError(t, err)
	e := &jointoken.Entry{Token: jointoken.New(), Description: "a test", Expires: time.Now().Add(time.Hour), Usages: []string{jointoken.Signing, jointoken.Authentication}}
	require.NoError(t, tokens.Create(t.Context(), e))
	require.True(t, apierrors.IsAlreadyExists(tokens.Create(t.Context(), e)))
	line, err := tokens.JoinCommand(t.Context(), e.Token)
	require.NoError(t, err)
	words := strings.Fields(line)
	require.Equal(t, []string{"keelson", "node", "--server", c.URL, "--token", e.String(), "--ca-cert-hash"}, words[:7])

	anonymous := c.Client(t, func(rc *rest.Config) { *rc = *rest.AnonymousClientConfig(rc) })
	_, err = anonymous.CoreV1().ConfigMaps("kube-public").Get(t.Context(), "cluster-info", metav1.GetOptions{})
	require.NoError(t, err, "anybody may read it")
	_, err = anonymous.CoreV1().ConfigMaps("kube-public").List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)

	discover := func(change func(*registration.DiscoverConfig)) (*rest.Config, error) {
		d := registration.DiscoverConfig{Server: words[3], Token: words[5], Pins: words[7:8], Dir: t.TempDir(), Patience: 20 * time.Second}
		if change != nil {
			change(&d)
		}
		return registration.Discover(t.Context(), d)
	}
	dir := t.TempDir()
	config, err := discover(func(d *registration.DiscoverConfig) { d.Dir = dir })
	require.NoError(t, err)
	joining, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	who, err := joining.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, "system:bootstrap:"+e.ID, who.Status.UserInfo.Username)

	other := "sha256:" + strings.Repeat("0", 64)
	for want, change := range map[string]func(*registration.DiscoverConfig){
		"none of the cluster's authorities":     func(d *registration.DiscoverConfig) { d.Pins = []string{other} },
		"is not signed with the token":          func(d *registration.DiscoverConfig) { d.Token = e.ID + "." + strings.Repeat("0", 16) },
		"it has signed nothing with the token ": func(d *registration.DiscoverConfig) { d.Token, d.Patience = jointoken.New().String(), 2*time.Second },
		"no hash of the cluster's authority":    func(d *registration.DiscoverConfig) { d.Pins = nil },
		"is no hash of an authority":            func(d *registration.DiscoverConfig) { d.Pins = []string{"x"} },
		"a token has the form":                  func(d *registration.DiscoverConfig) { d.Token = "x" },
	} {
		_, err := discover(change)
		require.ErrorContains(t, err, want)
	}

	id, err := tokens.Delete(t.Context(), e.ID)
	require.NoError(t, err)
	require.Equal(t, e.ID, id)
	all, err := tokens.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, all)
	require.Eventually(t, func() bool {
		m, err := anonymous.CoreV1().ConfigMaps("kube-public").Get(t.Context(), "cluster-info", metav1.GetOptions{})
		return err == nil && len(m.Data) == 1
	}, time.Minute, 10*time.Millisecond, "it is signed no more")
	again, err := discover(func(d *registration.DiscoverConfig) { d.Dir = dir })
	require.NoError(t, err, "the authority is known: a node starts again without a token that is good")
	require.Equal(t, config.CAData, again.CAData)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("broken"), 0o600))
	_, err = discover(func(d *registration.DiscoverConfig) { d.Dir, d.Patience = dir, time.Millisecond })
	require.Error(t, err)
}
