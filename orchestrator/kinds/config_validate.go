package kinds

import (
	"crypto/tls"
	"encoding/json"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// keysOf checks the keys of data, and returns the length of its values in bytes.
func keysOf[T string | []byte](p *problems, at *field.Path, data map[string]T) (size int) {
	for _, key := range slices.Sorted(maps.Keys(data)) {
		p.each(at.Key(key), key, utilvalidation.IsConfigMapKey(key))
		size += len(data[key])
	}
	return size
}

func validateConfigMap(o *corev1.ConfigMap) field.ErrorList {
	var p problems
	data := field.NewPath("data")
	size := keysOf(&p, data, o.Data)
	for _, key := range slices.Sorted(maps.Keys(o.Data)) {
		if _, ok := o.BinaryData[key]; ok {
			p.invalid(data.Key(key), key, "duplicate of key present in binaryData")
		}
	}
	size += keysOf(&p, field.NewPath("binaryData"), o.BinaryData)
	if size > corev1.MaxSecretSize {
		p.add(field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
	return p.list
}

const isImmutable = "field is immutable when `immutable` is set"

// stayImmutable says what changed of an object that may not change any more. Parts are pairs of the new and the old data.
func (p *problems) stayImmutable(was, is *bool, parts map[string][2]any) {
	if !ptr.Deref(was, false) {
		return
	}
	if !ptr.Deref(is, false) {
		p.forbidden(field.NewPath("immutable"), isImmutable)
	}
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		if pair := parts[name]; reflect.ValueOf(pair[0]).Len()+reflect.ValueOf(pair[1]).Len() > 0 && !reflect.DeepEqual(pair[0], pair[1]) {
			p.forbidden(field.NewPath(name), isImmutable)
		}
	}
}

func validateConfigMapUpdate(o, old *corev1.ConfigMap) field.ErrorList {
	var p problems
	p.stayImmutable(old.Immutable, o.Immutable, map[string][2]any{"data": {o.Data, old.Data}, "binaryData": {o.BinaryData, old.BinaryData}})
	return p.list
}

func validateSecret(o *corev1.Secret) field.ErrorList {
	var p problems
	data := field.NewPath("data")
	if keysOf(&p, data, o.Data) > corev1.MaxSecretSize {
		p.add(field.TooLong(data, "", corev1.MaxSecretSize))
	}
	switch o.Type {
	case corev1.SecretTypeServiceAccountToken:
		p.have(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), o.Annotations[corev1.ServiceAccountNameKey])
	case corev1.SecretTypeDockercfg:
		p.jsonAt(data, o.Data, corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		p.jsonAt(data, o.Data, corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		_, user := o.Data[corev1.BasicAuthUsernameKey]
		if _, password := o.Data[corev1.BasicAuthPasswordKey]; !user && !password {
			p.required(data.Key(corev1.BasicAuthUsernameKey), "")
			p.required(data.Key(corev1.BasicAuthPasswordKey), "")
		}
	case corev1.SecretTypeSSHAuth:
		p.have(data.Key(corev1.SSHAuthPrivateKey), string(o.Data[corev1.SSHAuthPrivateKey]))
	case corev1.SecretTypeTLS:
		for _, key := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
			if _, ok := o.Data[key]; !ok {
				p.required(data.Key(key), "")
			}
		}
	}
	return p.list
}

// jsonAt requires a JSON object under a key.
func (p *problems) jsonAt(at *field.Path, data map[string][]byte, key string) {
	value, ok := data[key]
	if !ok {
		p.required(at.Key(key), "")
		return
	}
	if err := json.Unmarshal(value, &map[string]any{}); err != nil {
		p.invalid(at.Key(key), "<secret contents redacted>", err.Error())
	}
}

func validateSecretUpdate(o, old *corev1.Secret) field.ErrorList {
	var p problems
	p.add(validation.ValidateImmutableField(o.Type, old.Type, field.NewPath("type"))...)
	p.stayImmutable(old.Immutable, o.Immutable, map[string][2]any{"data": {o.Data, old.Data}})
	return p.list
}

// warnOfSecret tells if a key does not belong to its certificate.
func warnOfSecret(o, _ *corev1.Secret) []string {
	if o.Type == corev1.SecretTypeTLS {
		if _, err := tls.X509KeyPair(o.Data[corev1.TLSCertKey], o.Data[corev1.TLSPrivateKeyKey]); err != nil {
			return []string{err.Error()}
		}
	}
	return nil
}

func warnOfServiceAccount(o, old *corev1.ServiceAccount) []string {
	const annotation = "kubernetes.io/enforce-mountable-secrets"
	if old != nil {
		if _, had := old.Annotations[annotation]; had {
			return nil
		}
	}
	if _, has := o.Annotations[annotation]; !has {
		return nil
	}
	return []string{"metadata.annotations[" + annotation + "]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"}
}
