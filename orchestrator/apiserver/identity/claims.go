package identity

import (
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// claims are what a service account's token says.
type claims struct {
	Issuer    string           `json:"iss,omitempty"`
	Subject   string           `json:"sub,omitempty"`
	Audience  audience         `json:"aud,omitempty"`
	Expiry    *jwt.NumericDate `json:"exp,omitempty"`
	NotBefore *jwt.NumericDate `json:"nbf,omitempty"`
	IssuedAt  *jwt.NumericDate `json:"iat,omitempty"`
	ID        string           `json:"jti,omitempty"`
	Bound     *bound           `json:"kubernetes.io,omitempty"`

	secretClaims
	user *request.User // made of the claims when they were verified
}

// audience is written as a list even if it has one member, as Kubernetes does: there are readers that know no other form.
type audience []string

// UnmarshalJSON reads both forms that the claim may have.
func (a *audience) UnmarshalJSON(b []byte) error { return (*jwt.Audience)(a).UnmarshalJSON(b) }

// secretClaims are those of a token that lives in a secret.
type secretClaims struct {
	Namespace  string `json:"kubernetes.io/serviceaccount/namespace,omitempty"`
	Secret     string `json:"kubernetes.io/serviceaccount/secret.name,omitempty"`
	Account    string `json:"kubernetes.io/serviceaccount/service-account.name,omitempty"`
	AccountUID string `json:"kubernetes.io/serviceaccount/service-account.uid,omitempty"`
}

// bound is what a token is bound to.
type bound struct {
	Namespace string           `json:"namespace,omitempty"`
	Account   ref              `json:"serviceaccount,omitempty"`
	Pod       *ref             `json:"pod,omitempty"`
	Secret    *ref             `json:"secret,omitempty"`
	Node      *ref             `json:"node,omitempty"`
	WarnAfter *jwt.NumericDate `json:"warnafter,omitempty"`
}

type ref struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// prepared adds the user.
func (c *claims) prepared() *claims {
	if c.Bound == nil {
		c.user = accountUser(c.Namespace, c.Account, c.AccountUID)
		return c
	}
	b := c.Bound
	c.user = accountUser(b.Namespace, b.Account.Name, b.Account.UID)
	extra := map[string][]string{}
	if b.Pod != nil && b.Pod.Name != "" && b.Pod.UID != "" {
		extra[extraPrefix+"pod-name"] = []string{b.Pod.Name}
		extra[extraPrefix+"pod-uid"] = []string{b.Pod.UID}
	}
	if b.Node != nil && b.Node.Name != "" {
		extra[nodeNameKey] = []string{b.Node.Name}
		if b.Node.UID != "" {
			extra[extraPrefix+"node-uid"] = []string{b.Node.UID}
		}
	}
	if c.ID != "" {
		extra[credentialKey] = []string{credentialID(c.ID)}
	}
	if len(extra) > 0 {
		c.user.Extra = extra
	}
	return c
}

// credentialID names a token by its ID.
func credentialID(jti string) string { return "JTI=" + jti }

// accountUser is a service account as a user.
func accountUser(namespace, name, uid string) *request.User {
	return &request.User{
		Name: serviceAccountPrefix + namespace + ":" + name, UID: uid,
		Groups: []string{serviceAccounts, serviceAccounts + ":" + namespace, Authenticated},
	}
}
