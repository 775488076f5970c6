package config

import (
	"bytes"
	"encoding/json"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// form is what the NixOS modules can check of a value by themselves. It accepts
// everything that the program does; the rest is for check-config.
type form struct {
	Type    string   `json:"type"`              // string, path, strings, enum or integer
	Pattern string   `json:"pattern,omitempty"` // of a string: extended regular expression (POSIX) for all of it
	Values  []string `json:"values,omitempty"`  // of an enum
	Min     int64    `json:"min,omitempty"`     // of an integer
	Max     int64    `json:"max,omitempty"`
}

// Patterns of ParseDuration and ParseSize.
const (
	durationPattern = "0|([0-9]+([.][0-9]+)?(ms|s|m|h|d|w))+"
	sizePattern     = "[0-9]+([.][0-9]+)? *(B|KiB|MiB|GiB|TiB|kB|MB|GB|TB)"
)

// tableBlock and tableAttr are the table of both files as JSON, from which the
// NixOS modules make their options (modules/settings.json).
type tableBlock struct {
	Doc        string                `json:"doc"`
	Attrs      map[string]tableAttr  `json:"attrs,omitempty"`
	Blocks     map[string]tableBlock `json:"blocks,omitempty"`
	Label      string                `json:"label,omitempty"` // may stand more than once, each with such a label
	LabelExact string                `json:"labelPattern,omitempty"`
}

type tableAttr struct {
	Doc      string `json:"doc"`
	Allowed  string `json:"allowed"`
	Required bool   `json:"required,omitempty"`
	form
	Default     json.RawMessage `json:"default,omitempty"`
	DefaultText string          `json:"defaultText,omitempty"` // words, where it is computed
	Example     json.RawMessage `json:"example,omitempty"`
}

func table(s *block) tableBlock {
	t := tableBlock{Doc: s.doc, Label: s.label}
	if s.each != nil {
		t.LabelExact = hostPattern
	}
	for _, a := range s.attrs {
		if t.Attrs == nil {
			t.Attrs = map[string]tableAttr{}
		}
		t.Attrs[a.name] = tableAttr{Doc: a.doc, Allowed: a.kind.allowed, Required: a.required, form: a.kind.form,
			Default: asJSON(a.def), DefaultText: a.defWords, Example: asJSON(a.example)}
	}
	for _, sub := range s.blocks {
		if t.Blocks == nil {
			t.Blocks = map[string]tableBlock{}
		}
		t.Blocks[sub.name] = table(sub)
	}
	return t
}

// asJSON is HCL source of a constant as JSON; "" gives none.
func asJSON(src string) json.RawMessage {
	if src == "" {
		return nil
	}
	expr, diags := hclsyntax.ParseExpression([]byte(src), "default", hcl.InitialPos)
	if diags.HasErrors() {
		panic(diags) // a test renders the whole table
	}
	v, diags := expr.Value(nil)
	if diags.HasErrors() {
		panic(diags)
	}
	b, err := ctyjson.Marshal(v, v.Type())
	if err != nil {
		panic(err)
	}
	return b
}

// Table is what may stand in lab-host.hcl and receiver.hcl, as JSON.
func Table() []byte {
	var hosts []*Host
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(map[string]tableBlock{"lab-host": table(labHostSchema(new(LabHost))), "receiver": table(receiverSchema(new(Receiver), &hosts))}); err != nil {
		panic(err) // strings and numbers can be marshalled
	}
	return b.Bytes()
}
