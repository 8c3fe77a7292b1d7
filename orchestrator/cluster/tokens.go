package cluster

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keelson-io/keelson/internal/jointoken"
)

// Tokens are those by which machines join a cluster.
type Tokens struct{ client kubernetes.Interface }

// NewTokens are those of the cluster that a config reaches.
func NewTokens(config *rest.Config) (*Tokens, error) {
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	return &Tokens{c}, nil
}

// Create makes a token. It is an error if there is one with its id.
func (t *Tokens) Create(ctx context.Context, e *jointoken.Entry) error {
	if err := e.Check(); err != nil {
		return err
	}
	if _, err := t.client.CoreV1().Secrets(jointoken.Namespace).Create(ctx, e.ToSecret(), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("cluster: the token: %w", err)
	}
	return nil
}

// List returns the tokens by their ids. Secrets of their type that hold none are left out.
func (t *Tokens) List(ctx context.Context) (out []*jointoken.Entry, err error) {
	of := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("type", string(jointoken.SecretType)).String()}
	l, err := t.client.CoreV1().Secrets(jointoken.Namespace).List(ctx, of)
	if err != nil {
		return nil, fmt.Errorf("cluster: the tokens: %w", err)
	}
	for i := range l.Items {
		if e, err := jointoken.FromSecret(&l.Items[i]); err == nil {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, jointoken.Compare)
	return out, nil
}

// Delete deletes a token, of which the id is enough, and returns that.
func (t *Tokens) Delete(ctx context.Context, text string) (id string, err error) {
	id, _, whole := strings.Cut(text, ".")
	if _, err := jointoken.Parse(text); whole && err != nil {
		return "", err
	}
	if !regexp.MustCompile(`\A[a-z0-9]{6}\z`).MatchString(id) {
		return "", fmt.Errorf("cluster: %q is no token, nor the id of one, which has 6 lower-case letters and digits", text)
	}
	if err := t.client.CoreV1().Secrets(jointoken.Namespace).Delete(ctx, jointoken.SecretName(id), metav1.DeleteOptions{}); err != nil {
		return "", fmt.Errorf("cluster: the token %s: %w", id, err)
	}
	return id, nil
}

// JoinCommand is what makes a machine a node of the cluster.
func (t *Tokens) JoinCommand(ctx context.Context, token jointoken.Token) (string, error) {
	server, ca, err := t.told(ctx)
	if err != nil {
		return "", err
	}
	all, err := jointoken.Authorities(ca)
	if err != nil {
		return "", err
	}
	words := []string{"keelson node --server", server, "--token", token.String()}
	for _, c := range all {
		words = append(words, "--ca-cert-hash", string(jointoken.PinOf(c)))
	}
	return strings.Join(words, " "), nil
}

// told is where the cluster says that it is, and by which authorities it is known.
func (t *Tokens) told(ctx context.Context) (server string, ca []byte, err error) {
	m, err := t.client.CoreV1().ConfigMaps(jointoken.InfoNamespace).Get(ctx, jointoken.InfoName, metav1.GetOptions{})
	if err != nil {
		return "", nil, fmt.Errorf("cluster: what strangers are told: %w", err)
	}
	c, err := clientcmd.Load([]byte(m.Data[jointoken.InfoKey]))
	if err != nil {
		return "", nil, fmt.Errorf("cluster: what strangers are told: %w", err)
	}
	for _, one := range c.Clusters {
		return one.Server, one.CertificateAuthorityData, nil
	}
	return "", nil, errors.New("cluster: strangers are not told where the cluster is")
}
