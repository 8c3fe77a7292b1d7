package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Parse reads a configuration file in YAML or JSON.
func Parse(data []byte) (*Configuration, error) {
	raw, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, fmt.Errorf("scheduler configuration: %w", err)
	}
	c := &Configuration{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, c); err != nil {
		return nil, fmt.Errorf("scheduler configuration: %w", err)
	}
	if c.Kind != Kind {
		return nil, fmt.Errorf("scheduler configuration: kind is %q, want %q", c.Kind, Kind)
	}
	if c.APIVersion != APIVersion {
		return nil, fmt.Errorf("scheduler configuration: apiVersion is %q, want %q", c.APIVersion, APIVersion)
	}
	wrong, err := strict(raw, &Configuration{}, "")
	if err != nil {
		return nil, fmt.Errorf("scheduler configuration: %w", err)
	}
	for i := range c.Profiles {
		for j := range c.Profiles[i].PluginConfig {
			path := fmt.Sprintf("profiles[%d].pluginConfig[%d]", i, j)
			more, err := c.Profiles[i].PluginConfig[j].decode(path)
			if err != nil {
				return nil, fmt.Errorf("scheduler configuration: %w", err)
			}
			wrong = append(wrong, more...)
		}
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("scheduler configuration: strict decoding error: %s", strings.Join(wrong, ", "))
	}
	c.setDefaults()
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("scheduler configuration: %w", err)
	}
	return c, nil
}

// strict lists the unknown and doubled fields.
func strict(raw []byte, into any, path string) ([]string, error) {
	problems, err := kjson.UnmarshalStrict(raw, into)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range problems {
		message := p.Error()
		var f kjson.FieldError
		if path != "" && errors.As(p, &f) {
			f.SetFieldPath(path + "." + f.FieldPath())
			message = p.Error()
		}
		out = append(out, message)
	}
	return out, nil
}

// decode reads the arguments into their type.
func (p *PluginConfig) decode(path string) ([]string, error) {
	args := newArgs(p.Name)
	if args == nil {
		return nil, nil
	}
	p.Decoded = args
	if len(p.Args) == 0 || string(p.Args) == "null" {
		return nil, nil
	}
	wrong, err := strict(p.Args, args, path+".args")
	if err != nil {
		return nil, fmt.Errorf("%s: args of plugin %s: %w", path, p.Name, err)
	}
	t := typeOf(args)
	if want := p.Name + "Args"; t.Kind != "" && t.Kind != want {
		return nil, fmt.Errorf("%s: args of plugin %s are of kind %q, want %q", path, p.Name, t.Kind, want)
	}
	if t.APIVersion != "" && t.APIVersion != APIVersion {
		return nil, fmt.Errorf("%s: args of plugin %s have apiVersion %q, want %q", path, p.Name, t.APIVersion, APIVersion)
	}
	return wrong, nil
}

// ArgsOf returns the arguments of a plugin: one of the argument types, raw JSON for a plugin that is not known here,
// or nil.
func (p *Profile) ArgsOf(plugin string) any {
	for i := range p.PluginConfig {
		c := &p.PluginConfig[i]
		if c.Name != plugin {
			continue
		}
		if c.Decoded != nil {
			return c.Decoded
		}
		if len(c.Args) > 0 {
			return json.RawMessage(c.Args)
		}
	}
	return nil
}
