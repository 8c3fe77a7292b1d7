package cluster

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// encrypted is how some resources are stored.
type encrypted struct {
	resources   []string // "secrets", "crontabs.example.com", "*.apps", "*." (the core group), "*.*"
	transformer objectstore.Transformer
}

const encryptionVersion = "apiserver.config.k8s.io/v1"

// encryption reads an EncryptionConfiguration. For a resource the first entry that names it counts.
func encryption(text []byte) (func(schema.GroupResource) objectstore.Transformer, error) {
	c := &apiserverv1.EncryptionConfiguration{}
	if err := yaml.UnmarshalStrict(text, c); err != nil {
		return nil, err
	}
	if c.APIVersion != encryptionVersion || c.Kind != "EncryptionConfiguration" {
		return nil, fmt.Errorf("want apiVersion %s and kind EncryptionConfiguration, not %q and %q", encryptionVersion, c.APIVersion, c.Kind)
	}
	if len(c.Resources) == 0 {
		return nil, errors.New("resources: there are none")
	}
	entries := make([]encrypted, len(c.Resources))
	for i := range c.Resources {
		r := &c.Resources[i]
		if len(r.Resources) == 0 {
			return nil, fmt.Errorf("resources[%d].resources: there are none", i)
		}
		for _, name := range r.Resources {
			if name == "" || name != strings.ToLower(name) || name == "*" || strings.Contains(name, "/") {
				return nil, fmt.Errorf("resources[%d].resources: %q is no resource", i, name)
			}
		}
		t, err := chain(r.Providers)
		if err != nil {
			return nil, fmt.Errorf("resources[%d].providers%w", i, err)
		}
		entries[i] = encrypted{r.Resources, t}
	}
	return func(r schema.GroupResource) objectstore.Transformer {
		for i := range entries {
			if entries[i].holds(r) {
				return entries[i].transformer
			}
		}
		return nil
	}, nil
}

func (e *encrypted) holds(r schema.GroupResource) bool {
	for _, name := range e.resources {
		switch name {
		case "*.*", r.String(), "*." + r.Group:
			return true
		}
	}
	return false
}

// chain is some providers: the first writes, all may read.
func chain(providers []apiserverv1.ProviderConfiguration) (objectstore.Transformer, error) {
	if len(providers) == 0 {
		return nil, errors.New(": there are none")
	}
	members := make([]objectstore.Transformer, len(providers))
	for i := range providers {
		var err error
		if members[i], err = provider(&providers[i]); err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return objectstore.Chain(members...), nil
}

func provider(p *apiserverv1.ProviderConfiguration) (objectstore.Transformer, error) {
	var made []func() (objectstore.Transformer, error)
	of := func(keys []apiserverv1.Key, make func(...objectstore.Key) (objectstore.Transformer, error)) {
		made = append(made, func() (objectstore.Transformer, error) {
			decoded, err := decodeKeys(keys)
			if err != nil {
				return nil, err
			}
			return make(decoded...)
		})
	}
	if p.AESGCM != nil {
		of(p.AESGCM.Keys, objectstore.AESGCM)
	}
	if p.AESCBC != nil {
		of(p.AESCBC.Keys, objectstore.AESCBC)
	}
	if p.Secretbox != nil {
		of(p.Secretbox.Keys, objectstore.SecretBox)
	}
	if p.Identity != nil {
		made = append(made, func() (objectstore.Transformer, error) { return objectstore.Identity(), nil })
	}
	switch {
	case p.KMS != nil:
		return nil, errors.New("kms is not supported")
	case len(made) != 1:
		return nil, fmt.Errorf("it has %d of identity, aescbc, aesgcm and secretbox, and must have one", len(made))
	}
	return made[0]()
}

func decodeKeys(keys []apiserverv1.Key) ([]objectstore.Key, error) {
	out := make([]objectstore.Key, len(keys))
	for i, k := range keys {
		secret, err := base64.StdEncoding.DecodeString(k.Secret)
		if err != nil {
			return nil, fmt.Errorf("key %q: the secret is not in base64", k.Name)
		}
		out[i] = objectstore.Key{Name: k.Name, Secret: secret}
	}
	return out, nil
}
