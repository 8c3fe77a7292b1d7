package jointoken

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Names in the API.
const (
	Namespace     = "kube-system"
	SecretType    = corev1.SecretType("bootstrap.kubernetes.io/token")
	InfoNamespace = "kube-public"
	InfoName      = "cluster-info"
	// InfoKey is the key of the kubeconfig in the ConfigMap, SignatureKey + id that of the signature by a token.
	InfoKey      = "kubeconfig"
	SignatureKey = "jws-kubeconfig-"

	secretPrefix = "bootstrap-token-"
	usagePrefix  = "usage-bootstrap-"
	groupPrefix  = "system:bootstrappers:"
)

// Token is one by which machines join.
type Token struct{ ID, Secret string }

func (t Token) String() string { return t.ID + "." + t.Secret }

// Parse reads a token.
func Parse(text string) (Token, error) {
	id, secret, _ := strings.Cut(text, ".")
	if !regexp.MustCompile(`\A[a-z0-9]{6}\.[a-z0-9]{16}\z`).MatchString(text) {
		return Token{}, errors.New("jointoken: a token has the form id.secret, of 6 and 16 lower-case letters and digits")
	}
	return Token{id, secret}, nil
}

const (
	idLength     = 6
	secretLength = 16
	letters      = "abcdefghijklmnopqrstuvwxyz0123456789"
)

// New makes a token that nobody can guess.
func New() Token {
	b := make([]byte, 0, idLength+secretLength)
	for len(b) < cap(b) {
		var x [1]byte
		_, _ = rand.Read(x[:]) // never fails
		if i := int(x[0]); i < 256/len(letters)*len(letters) {
			b = append(b, letters[i%len(letters)])
		}
	}
	return Token{string(b[:idLength]), string(b[idLength:])}
}

// SecretName is the name of the Secret that has the token with an id.
func SecretName(id string) string { return secretPrefix + id }

// Entry is a token with what the cluster knows of it.
type Entry struct {
	Token
	Description string
	Expires     time.Time // zero: never
	Usages      []string  // of "signing" and "authentication"
	Groups      []string  // that who has it is in besides system:bootstrappers
}

// Usages of tokens.
const (
	Signing        = "signing"
	Authentication = "authentication"
)

// Check says what is wrong with an entry.
func (e *Entry) Check() error {
	if _, err := Parse(e.String()); err != nil {
		return err
	}
	for _, u := range e.Usages {
		if u != Signing && u != Authentication {
			return fmt.Errorf("jointoken: there is no usage %q, but %s and %s", u, Signing, Authentication)
		}
	}
	group := regexp.MustCompile(`\A` + groupPrefix + `[a-z0-9:-]{0,255}[a-z0-9]\z`)
	for _, g := range e.Groups {
		if !group.MatchString(g) {
			return fmt.Errorf("jointoken: the group %q does not begin with %s and end with a letter or digit", g, groupPrefix)
		}
	}
	return nil
}

// ToSecret is the Secret that keeps a token.
func (e *Entry) ToSecret() *corev1.Secret {
	data := map[string][]byte{"token-id": []byte(e.ID), "token-secret": []byte(e.Token.Secret)}
	if e.Description != "" {
		data["description"] = []byte(e.Description)
	}
	if !e.Expires.IsZero() {
		data["expiration"] = []byte(e.Expires.UTC().Format(time.RFC3339))
	}
	if len(e.Groups) > 0 {
		data["auth-extra-groups"] = []byte(strings.Join(e.Groups, ","))
	}
	for _, u := range e.Usages {
		data[usagePrefix+u] = []byte("true")
	}
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: SecretName(e.ID)}, Type: SecretType, Data: data}
}

// FromSecret reads the token of a Secret. One that is no whole token is an error.
func FromSecret(s *corev1.Secret) (*Entry, error) {
	get := func(key string) string { return string(s.Data[key]) }
	e := &Entry{Token: Token{get("token-id"), get("token-secret")}, Description: get("description")}
	if s.Type != SecretType {
		return nil, fmt.Errorf("jointoken: secret %s: its type is %q", s.Name, s.Type)
	}
	if s.Name != SecretName(e.ID) {
		return nil, fmt.Errorf("jointoken: secret %s: the token's id is %q", s.Name, e.ID)
	}
	if text := get("expiration"); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, fmt.Errorf("jointoken: secret %s: expiration: %w", s.Name, err)
		}
		e.Expires = at
	}
	for _, u := range []string{Authentication, Signing} {
		if get(usagePrefix+u) == "true" {
			e.Usages = append(e.Usages, u)
		}
	}
	if text := get("auth-extra-groups"); text != "" {
		e.Groups = strings.Split(text, ",")
	}
	if err := e.Check(); err != nil {
		return nil, fmt.Errorf("secret %s: %w", s.Name, err)
	}
	return e, nil
}

// Expired says whether a token is good no more.
func (e *Entry) Expired(now time.Time) bool { return !e.Expires.IsZero() && !now.Before(e.Expires) }

// May says whether a token may be used for something.
func (e *Entry) May(usage string) bool { return slices.Contains(e.Usages, usage) }

// Compare orders tokens by their ids.
func Compare(a, b *Entry) int { return cmp.Compare(a.ID, b.ID) }

// Sign is the signature of a content by a token, without the content.
func (t Token) Sign(content string) string {
	encode := base64.RawURLEncoding.EncodeToString
	header := encode([]byte(`{"alg":"HS256","kid":"` + t.ID + `"}`)) // an id needs no escape
	mac := hmac.New(sha256.New, []byte(t.Secret))
	mac.Write([]byte(header + "." + encode([]byte(content)))) // never fails
	return header + ".." + encode(mac.Sum(nil))
}

// Signed says whether a signature is that of a content by the token.
func (t Token) Signed(content, signature string) bool {
	return subtle.ConstantTimeCompare([]byte(t.Sign(content)), []byte(signature)) == 1
}
