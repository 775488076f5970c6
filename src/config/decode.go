package config

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/json"
	"github.com/zclconf/go-cty/cty"
)

// block is what may stand in a body, bound to the struct that it fills. It is the
// one place that knows an attribute's name, meaning, default and bounds: the
// decoder, its messages and the commented examples all come from it.
type block struct {
	name     string
	label    string // what the label is, "" for a block without one
	doc      string
	required bool
	attrs    []attr
	blocks   []*block

	// each is set for a block that may stand more than once, with a label: it
	// begins one more and returns what may stand in that.
	each       func(label string) *block
	checkLabel func(string) error
	example    string // label in the example
}

// attr is one attribute.
type attr struct {
	name string
	doc  string
	kind kind

	// One of these says what holds when it is not set.
	def      string // HCL source, decoded like a value from the file
	defWords string // words: something that is computed
	required bool

	example string // HCL source for the example where def is "" or would not show the form
}

// kind decodes a value and knows in words what it accepts.
type kind struct {
	allowed string
	set     func(cty.Value) error
	bounds  string // allowed in short, for the example, which explains the units once
	form    form   // what can be said of it without this program
}

// maxFile bounds a configuration file, and with it how deep the parsers recurse.
const maxFile = 1 << 20

type decoder struct {
	name  string
	src   []byte
	files map[string]*hcl.File
	root  *block
	diags hcl.Diagnostics
	// syntax is set when the file is not HCL at all: nothing else was looked at.
	syntax bool
	hinted int                  // the line that quoteHint saw last
	at     map[string]hcl.Range // by path, as in receiver.url: where its value stands
	listed map[*block]bool      // blocks whose attributes a message has listed already
	bad    map[string]bool      // paths with an error
}

func decode(name string, src []byte, root *block) *decoder {
	d := &decoder{name: name, src: src, root: root, files: map[string]*hcl.File{}, at: map[string]hcl.Range{}, bad: map[string]bool{}, listed: map[*block]bool{}}
	start := hcl.Range{Filename: name, Start: hcl.InitialPos, End: hcl.InitialPos}
	if len(src) > maxFile {
		first, _, _ := bytes.Cut(src[:200], []byte("\n"))
		d.files[name] = &hcl.File{Bytes: first}
		d.errorAt(start, "File too large", "A configuration is at most "+Size(maxFile).String()+".")
		d.syntax = true
		return d
	}
	var f *hcl.File
	var diags hcl.Diagnostics
	if d.isJSON() {
		f, diags = json.Parse(src, name)
	} else {
		f, diags = hclsyntax.ParseConfig(src, name, hcl.InitialPos)
	}
	if f == nil {
		f = &hcl.File{}
	}
	f.Bytes = src
	d.files[name] = f
	for _, diag := range diags {
		if diag.Severity == hcl.DiagError && diag.Summary != "Attribute redefined" {
			// What the parser made of the rest is a guess; errors found in it may be
			// of its own making.
			d.syntax = true
		}
		d.quoteHint(diag)
	}
	d.diags = diags
	if d.syntax {
		return d
	}
	d.at[""] = f.Body.MissingItemRange()
	d.body(f.Body, root, "")
	return d
}

// bareValue is an attribute whose value begins like text without its quotes.
var bareValue = regexp.MustCompile(`^\s*([a-z_]+)\s*=\s*([^\s"\[{(<#].*?)\s*$`)

const maxHinted = 400 // bytes of a line

// quoteHint adds to a syntax error what is usually behind it.
func (d *decoder) quoteHint(diag *hcl.Diagnostic) {
	if diag.Subject == nil || !d.syntax {
		return
	}
	// Once for a line: one that is no text at all has an error at each of its bytes.
	if d.hinted == diag.Subject.Start.Line {
		return
	}
	d.hinted = diag.Subject.Start.Line
	at := min(diag.Subject.Start.Byte, len(d.src))
	from := max(0, at-maxHinted)
	start := bytes.LastIndexByte(d.src[from:at], '\n') + 1 + from
	line, _, _ := bytes.Cut(d.src[start:min(start+maxHinted, len(d.src))], []byte("\n"))
	if len(line) == maxHinted || start == from && from > 0 {
		return
	}
	if m := bareValue.FindSubmatch(line); m != nil && !bytes.ContainsAny(m[2], `"`) {
		diag.Detail += fmt.Sprintf(" Text has to be in double quotes: %s = \"%s\"", m[1], m[2])
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func (d *decoder) body(b hcl.Body, s *block, path string) {
	schema := &hcl.BodySchema{}
	for _, a := range s.attrs {
		schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: a.name})
	}
	for _, sub := range s.blocks {
		h := hcl.BlockHeaderSchema{Type: sub.name}
		if sub.label != "" {
			h.LabelNames = []string{sub.label}
		}
		schema.Blocks = append(schema.Blocks, h)
	}
	content, diags := b.Content(schema)
	inOrder(diags)
	for _, diag := range diags {
		switch diag.Summary {
		case "Unsupported argument", "Unsupported block type", "Extraneous JSON object property":
			d.unknown(diag, s)
		default:
			for _, sub := range s.blocks {
				if sub.label != "" && diag.Summary == "Missing "+sub.label+" for "+sub.name {
					diag.Detail = fmt.Sprintf("Each %s block has a %s: %s %q { … }", sub.name, sub.label, sub.name, sub.example)
				}
			}
			d.diags = append(d.diags, diag)
		}
	}
	if content == nil {
		return
	}
	for _, a := range s.attrs {
		d.attr(content.Attributes[a.name], a, s, path)
	}
	for _, sub := range s.blocks {
		d.subBlocks(content.Blocks.OfType(sub.name), sub, path)
	}
}

func (d *decoder) attr(got *hcl.Attribute, a attr, s *block, path string) {
	full := join(path, a.name)
	d.at[full] = d.at[path]
	if got != nil {
		v, diags := got.Expr.Value(&hcl.EvalContext{})
		// null stands for "not set", which is what a NixOS module writes.
		if !v.IsNull() || diags.HasErrors() {
			d.at[full] = got.Expr.Range()
			if diags.HasErrors() {
				d.bad[full] = true
				for _, diag := range diags {
					if diag.Summary == "Variables not allowed" || strings.HasPrefix(diag.Summary, "Function calls not") {
						diag.Detail += " Allowed for " + a.name + ": " + a.kind.allowed + "."
					}
				}
				d.diags = append(d.diags, diags...)
				return
			}
			if err := a.kind.set(v); err != nil {
				d.errorAt(got.Expr.Range(), "Invalid value for "+a.name, sentence(err.Error())+" Allowed: "+a.kind.allowed+".")
				d.bad[full] = true
			}
			return
		}
	}
	switch {
	case a.required:
		d.bad[full] = true
		where := "this file"
		if s.name != "" {
			where = "the " + s.name + " block"
		}
		d.errorAt(d.at[path], "Missing "+a.name, fmt.Sprintf("%s has to be set in %s: %s. For example:\n\n    %s", a.name, where, a.kind.allowed, d.line(a)))
	case a.def != "":
		if err := setDefault(a); err != nil {
			panic("config: default of " + full + ": " + err.Error()) // a test sets every default
		}
	}
}

func setDefault(a attr) error {
	expr, diags := hclsyntax.ParseExpression([]byte(a.def), "default", hcl.InitialPos)
	if diags.HasErrors() {
		return diags
	}
	v, diags := expr.Value(nil)
	if diags.HasErrors() {
		return diags
	}
	return a.kind.set(v)
}

func (d *decoder) subBlocks(got hcl.Blocks, s *block, path string) {
	full := join(path, s.name)
	if s.each != nil {
		for _, b := range got {
			p := join(full, b.Labels[0])
			if _, second := d.at[p]; second {
				d.errorAt(b.LabelRanges[0], "Second "+s.name+" "+strconv.Quote(b.Labels[0]), fmt.Sprintf("There is one already, on line %d. Each has a %s of its own.", d.at[p].Start.Line, s.label))
				continue
			}
			d.at[p] = b.LabelRanges[0]
			if err := s.checkLabel(b.Labels[0]); err != nil {
				d.errorAt(b.LabelRanges[0], "Invalid "+s.label+" of "+s.name, sentence(err.Error()))
			}
			d.body(b.Body, s.each(b.Labels[0]), p)
		}
		return
	}
	d.at[full] = d.at[path]
	if len(got) == 0 {
		if s.required {
			d.bad[full] = true
			d.errorAt(d.at[path], "Missing block "+s.name, "A block of this form is needed:\n\n"+d.skeleton(s))
			return
		}
		d.defaults(s, full)
		return
	}
	for _, extra := range got[1:] {
		d.errorAt(extra.TypeRange, "Second block "+s.name, fmt.Sprintf("There is one already, on line %d. Put everything into that.", got[0].TypeRange.Start.Line))
	}
	d.at[full] = got[0].TypeRange
	d.body(got[0].Body, s, full)
}

// defaults fills in a block that is not there.
func (d *decoder) defaults(s *block, path string) {
	for _, a := range s.attrs {
		d.attr(nil, a, s, path)
	}
	for _, sub := range s.blocks {
		d.subBlocks(nil, sub, path)
	}
}

// unknown says what could have been meant by a name that is not known here.
func (d *decoder) unknown(diag *hcl.Diagnostic, s *block) {
	name := strings.Trim(string(diag.Subject.SliceBytes(d.src)), `"`)
	var attrs, blocks []string
	for _, a := range s.attrs {
		attrs = append(attrs, a.name)
	}
	for _, b := range s.blocks {
		blocks = append(blocks, b.name)
	}
	where := "at the top level"
	if s.name != "" {
		where = "in " + s.name
	}
	isBlock := diag.Summary == "Unsupported block type"
	hint := ""
	switch {
	case isBlock && slices.Contains(attrs, name):
		hint = fmt.Sprintf(" It is an attribute: write %s = … on one line.", name)
	case !isBlock && slices.Contains(blocks, name):
		hint = fmt.Sprintf(" It is a block: write %s { … } without an equals sign.", name)
	default:
		if near := closest(name, slices.Concat(attrs, blocks)); near != "" {
			hint = fmt.Sprintf(" Did you mean %s?", near)
		} else if home := d.root.home(name); home != "" {
			hint = fmt.Sprintf(" It belongs %s.", home)
		}
	}
	slices.Sort(attrs)
	detail := fmt.Sprintf("%s is not known %s.%s", name, where, hint)
	if !d.listed[s] {
		d.listed[s] = true
		detail += "\n\nAttributes allowed here: " + strings.Join(attrs, ", ") + "."
		if len(blocks) > 0 {
			detail += " Blocks: " + strings.Join(blocks, ", ") + "."
		}
	}
	summary := "Unknown attribute"
	if isBlock {
		summary = "Unknown block"
	}
	d.errorAt(*diag.Subject, summary, detail)
}

// home says in words where else an attribute or block of this name is known.
func (s *block) home(name string) string {
	in := "in the " + s.name + " block"
	if s.name == "" {
		in = "at the top level"
	}
	for _, a := range s.attrs {
		if a.name == name {
			return in
		}
	}
	for _, b := range s.blocks {
		if b.name == name {
			return in
		}
		if h := b.home(name); h != "" {
			return h
		}
	}
	return ""
}

// closest finds the name that was probably meant: a few letters off, or the
// beginning or the end of just one.
func closest(given string, names []string) string {
	best, dist := "", 3 // one more than is accepted
	switch n := len(given); {
	case n < 3:
		dist = 2
	case n >= 8:
		dist = 4
	}
	for _, n := range names {
		if d := levenshtein.Distance(given, n, nil); d < dist {
			best, dist = n, d
		}
	}
	if best != "" || len(given) < 2 {
		return best
	}
	for _, n := range names {
		if len(given) > 2 && strings.HasPrefix(n, given) || strings.HasPrefix(n, given+"_") || strings.HasSuffix(n, "_"+given) || strings.HasPrefix(given, n+"_") {
			if best != "" {
				return ""
			}
			best = n
		}
	}
	return best
}

func (d *decoder) errorAt(r hcl.Range, summary, detail string) {
	d.diags = append(d.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: r.Ptr()})
}

// fail reports an error of the values at paths, at the first of them.
func (d *decoder) fail(summary, detail string, paths ...string) {
	r, ok := d.at[paths[0]]
	if !ok {
		r = d.at[""]
	}
	d.errorAt(r, summary, detail)
}

// warn is fail for what may be meant so.
func (d *decoder) warn(summary, detail string, paths ...string) {
	d.fail(summary, detail, paths...)
	d.diags[len(d.diags)-1].Severity = hcl.DiagWarning
}

// good says whether the values at paths could be read.
func (d *decoder) good(paths ...string) bool {
	for _, p := range paths {
		for q := p; q != ""; {
			if d.bad[q] {
				return false
			}
			i := strings.LastIndexByte(q, '.')
			if i < 0 {
				break
			}
			q = q[:i]
		}
	}
	return true
}

// given says whether the file sets path.
func (d *decoder) given(path string) bool {
	parent := ""
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		parent = path[:i]
	}
	return d.at[path] != d.at[parent]
}

// sorted is the diagnostics in the order of the file.
func (d *decoder) sorted() hcl.Diagnostics {
	inOrder(d.diags)
	return d.diags
}

func inOrder(diags hcl.Diagnostics) {
	slices.SortStableFunc(diags, func(a, b *hcl.Diagnostic) int {
		if a.Subject == nil || b.Subject == nil {
			return 0
		}
		return a.Subject.Start.Byte - b.Subject.Start.Byte
	})
}

// line is an attribute of the example in the syntax of the file.
func (d *decoder) line(a attr) string {
	if d.isJSON() {
		return strconv.Quote(a.name) + ": " + a.example
	}
	return a.name + " = " + a.example
}

func (d *decoder) isJSON() bool { return strings.HasSuffix(d.name, ".json") }

// skeleton is the least of a block, likewise.
func (d *decoder) skeleton(s *block) string {
	head := s.name
	if d.isJSON() {
		head = strconv.Quote(s.name) + ":"
	}
	var b strings.Builder
	for _, a := range s.attrs {
		if a.required {
			b.WriteString("      " + d.line(a) + "\n")
		}
	}
	return "    " + head + " {\n" + b.String() + "    }"
}

// sentence makes s one, with a capital and a full stop.
func sentence(s string) string {
	if s == "" || strings.HasPrefix(s, "true ") || strings.HasPrefix(s, "false ") {
		return s + "." // a value is shown as it is
	}
	if !strings.HasSuffix(s, "?") {
		s += "."
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
