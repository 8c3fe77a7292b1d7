package kinds

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const maxProfileName = 4095 // what a path of Linux may be, less its end

// appArmor checks a profile, which may be absent.
func (p *problems) appArmor(at *field.Path, profile *corev1.AppArmorProfile) {
	if profile == nil {
		return
	}
	nameAt, name := at.Child("localhostProfile"), profile.LocalhostProfile
	const needsName = "must be set when AppArmor type is Localhost"
	switch profile.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		if name == nil {
			p.required(nameAt, needsName)
			return
		}
		if strings.TrimSpace(*name) != *name {
			p.invalid(nameAt, *name, "must not be padded with whitespace")
		} else if *name == "" {
			p.required(nameAt, needsName)
		}
		if len(*name) > maxProfileName {
			p.add(field.TooLong(nameAt, "", maxProfileName))
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if name != nil {
			p.invalid(nameAt, name, "can only be set when AppArmor type is Localhost")
		}
	case "":
		p.required(at.Child("type"), "type is required when appArmorProfile is set")
	default:
		oneOf(p, at.Child("type"), profile.Type,
			corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	}
}

// validProfile says that a profile is well-formed.
func validProfile(profile *corev1.AppArmorProfile) bool {
	var p problems
	p.appArmor(nil, profile)
	return len(p.list) == 0
}
