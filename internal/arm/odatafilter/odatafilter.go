// Package odatafilter reads the part of OData's $filter that ARM clients use (OData v4 URL conventions,
// section 5.1.1): comparisons of a property with a literal, and, or, not, parentheses and functions.
// It knows no property; whoever evaluates a filter says what the names in it stand for.
package odatafilter

import (
	"errors"
	"fmt"
	"strings"
)

// ErrSyntax is wrapped by every error of Parse.
var ErrSyntax = errors.New("invalid $filter")

const (
	maxLength = 8 << 10
	maxDepth  = 64
)

// Filter is a parsed filter. The nil Filter matches everything.
type Filter struct{ root node }

// Names says what the names in a filter stand for.
type Names struct {
	// Value is a property's value; false when there is none.
	Value func(path string) (string, bool)
	// Call evaluates a function such as atScope(); nil, or false from it, is no match. Arguments are literals
	// without quotes, or names as written. The string functions substringof, startswith, endswith and contains
	// are evaluated here.
	Call func(name string, args []string) bool
}

// Match evaluates the filter. Strings compare without regard to case, as resource names and types do.
func (f *Filter) Match(n Names) bool { return f == nil || f.root.eval(n) }

// Call finds the first call of a function in the filter.
func (f *Filter) Call(name string) (args []string, ok bool) {
	if f == nil {
		return nil, false
	}
	f.root.walk(func(x node) {
		if c, is := x.(call); is && !ok && strings.EqualFold(c.name, name) {
			ok = true
			for _, a := range c.args {
				args = append(args, a.text)
			}
		}
	})
	return args, ok
}

// Equals finds the literal of the first comparison "name eq 'literal'" in the filter.
func (f *Filter) Equals(name string) (literal string, ok bool) {
	if f == nil {
		return "", false
	}
	f.root.walk(func(x node) {
		if c, is := x.(comparison); is && !ok && c.op == "eq" && strings.EqualFold(c.left.text, name) && !c.left.literal {
			literal, ok = c.right.text, true
		}
	})
	return literal, ok
}

type node interface {
	eval(Names) bool
	walk(func(node))
}

type operand struct {
	text    string
	literal bool
}

func (o operand) value(n Names) (string, bool) {
	if o.literal {
		return o.text, true
	}
	if n.Value == nil {
		return "", false
	}
	return n.Value(o.text)
}

type both struct {
	left, right node
	or          bool
}

func (b both) eval(n Names) bool {
	if b.or {
		return b.left.eval(n) || b.right.eval(n)
	}
	return b.left.eval(n) && b.right.eval(n)
}

func (b both) walk(fn func(node)) { fn(b); b.left.walk(fn); b.right.walk(fn) }

type negation struct{ of node }

func (x negation) eval(n Names) bool  { return !x.of.eval(n) }
func (x negation) walk(fn func(node)) { fn(x); x.of.walk(fn) }

type comparison struct {
	left, right operand
	op          string
}

func (c comparison) eval(n Names) bool {
	l, lok := c.left.value(n)
	r, rok := c.right.value(n)
	same := lok && rok && strings.EqualFold(l, r)
	switch c.op {
	case "eq":
		return same
	case "ne":
		return !same
	case "gt":
		return lok && rok && l > r
	case "ge":
		return lok && rok && l >= r
	case "lt":
		return lok && rok && l < r
	default: // le
		return lok && rok && l <= r
	}
}

func (c comparison) walk(fn func(node)) { fn(c) }

type call struct {
	name string
	args []operand
}

func (c call) eval(n Names) bool {
	name := strings.ToLower(c.name)
	switch name {
	case "substringof", "startswith", "endswith", "contains":
		if len(c.args) != 2 {
			return false
		}
		a, aok := c.args[0].value(n)
		b, bok := c.args[1].value(n)
		a, b = strings.ToLower(a), strings.ToLower(b)
		switch {
		case !aok || !bok:
			return false
		case name == "substringof":
			return strings.Contains(b, a)
		case name == "contains":
			return strings.Contains(a, b)
		case name == "startswith":
			return strings.HasPrefix(a, b)
		}
		return strings.HasSuffix(a, b)
	}
	if n.Call == nil {
		return false
	}
	var args []string
	for _, a := range c.args {
		args = append(args, a.text)
	}
	return n.Call(c.name, args)
}

func (c call) walk(fn func(node)) { fn(c) }

// Parse reads a filter; an empty one is nil, which matches everything.
func Parse(s string) (*Filter, error) {
	if len(s) > maxLength {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrSyntax, maxLength)
	}
	tokens, err := scan(s)
	if err != nil || len(tokens) == 0 {
		return nil, err
	}
	p := &parser{tokens: tokens}
	root, err := p.or()
	if err != nil {
		return nil, err
	}
	if p.at < len(p.tokens) {
		return nil, fmt.Errorf("%w: %q is left over", ErrSyntax, p.tokens[p.at].text)
	}
	return &Filter{root}, nil
}

type token struct {
	text   string
	quoted bool
}

func scan(s string) ([]token, error) {
	var out []token
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
		case c == '(' || c == ')' || c == ',':
			out = append(out, token{text: string(c)})
			i++
		case c == '\'':
			var b strings.Builder
			for i++; ; i++ {
				if i >= len(s) {
					return nil, fmt.Errorf("%w: a quote is not closed", ErrSyntax)
				}
				if s[i] == '\'' {
					if i+1 < len(s) && s[i+1] == '\'' { // doubled inside a literal
						i++
					} else {
						break
					}
				}
				b.WriteByte(s[i])
			}
			i++
			out = append(out, token{b.String(), true})
		default:
			j := i
			for j < len(s) && !strings.ContainsRune(" \t\r\n(),'", rune(s[j])) {
				j++
			}
			out = append(out, token{text: s[i:j]})
			i = j
		}
	}
	return out, nil
}

type parser struct {
	tokens []token
	at     int
	depth  int
}

func (p *parser) peek(word string) bool {
	return p.at < len(p.tokens) && !p.tokens[p.at].quoted && strings.EqualFold(p.tokens[p.at].text, word)
}

func (p *parser) take(word string) bool {
	if p.peek(word) {
		p.at++
		return true
	}
	return false
}

func (p *parser) or() (node, error) {
	left, err := p.and()
	for err == nil && p.take("or") {
		var right node
		if right, err = p.and(); err == nil {
			left = both{left, right, true}
		}
	}
	return left, err
}

func (p *parser) and() (node, error) {
	left, err := p.unary()
	for err == nil && p.take("and") {
		var right node
		if right, err = p.unary(); err == nil {
			left = both{left, right, false}
		}
	}
	return left, err
}

func (p *parser) unary() (node, error) {
	p.depth++
	defer func() { p.depth-- }()
	if p.depth > maxDepth {
		return nil, fmt.Errorf("%w: nested too deep", ErrSyntax)
	}
	switch {
	case p.take("not"):
		of, err := p.unary()
		return negation{of}, err
	case p.take("("):
		inner, err := p.or()
		if err == nil && !p.take(")") {
			err = fmt.Errorf("%w: a parenthesis is not closed", ErrSyntax)
		}
		return inner, err
	}
	left, err := p.operand()
	if err != nil {
		return nil, err
	}
	if !left.literal && p.take("(") {
		c := call{name: left.text}
		for !p.take(")") {
			if len(c.args) > 0 && !p.take(",") {
				return nil, fmt.Errorf("%w: a comma is due in %s()", ErrSyntax, c.name)
			}
			a, err := p.operand()
			if err != nil {
				return nil, err
			}
			c.args = append(c.args, a)
		}
		// Some clients compare a boolean function with true.
		if p.take("eq") {
			if p.take("false") {
				return negation{c}, nil
			}
			if !p.take("true") {
				return nil, fmt.Errorf("%w: %s() is true or false", ErrSyntax, c.name)
			}
		}
		return c, nil
	}
	if p.at >= len(p.tokens) {
		return nil, fmt.Errorf("%w: an operator is due after %q", ErrSyntax, left.text)
	}
	op := strings.ToLower(p.tokens[p.at].text)
	switch op {
	case "eq", "ne", "gt", "ge", "lt", "le":
	default:
		return nil, fmt.Errorf("%w: %q is no operator", ErrSyntax, p.tokens[p.at].text)
	}
	p.at++
	right, err := p.operand()
	return comparison{left, right, op}, err
}

func (p *parser) operand() (operand, error) {
	if p.at >= len(p.tokens) {
		return operand{}, fmt.Errorf("%w: it ends too early", ErrSyntax)
	}
	t := p.tokens[p.at]
	if !t.quoted && (t.text == "(" || t.text == ")" || t.text == ",") {
		return operand{}, fmt.Errorf("%w: %q where a name or literal is due", ErrSyntax, t.text)
	}
	p.at++
	literal := t.quoted || strings.EqualFold(t.text, "true") || strings.EqualFold(t.text, "false") || t.text[0] >= '0' && t.text[0] <= '9'
	return operand{t.text, literal}, nil
}
