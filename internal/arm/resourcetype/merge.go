package resourcetype

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"strings"
	"unicode"
)

// object reads a JSON object, keeping numbers as they were written.
func object(data []byte) (map[string]any, error) {
	v, err := decodeAny(data)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("it is not a JSON object")
	}
	return m, nil
}

func decodeAny(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("there is text after the JSON value")
	}
	return v, nil
}

// encoded is a model as its JSON object.
func encoded(model any) (map[string]any, error) {
	b, err := json.Marshal(model)
	if err != nil {
		return nil, fmt.Errorf("encode the model: %w", err)
	}
	return object(b)
}

// mergeModel brings the changes of a model, from before to after, into the raw document it was read
// from. What the model does not know stays; what the model knows and no longer has goes.
func mergeModel(raw, before, after map[string]any) map[string]any {
	out := make(map[string]any, len(raw)+len(after))
	for k, v := range raw {
		out[k] = v
	}
	spelled := spellings(raw)
	for k := range before {
		if _, stays := after[k]; !stays {
			delete(out, spelled(k))
		}
	}
	for k, a := range after {
		as := spelled(k)
		r, inRaw := out[as]
		if as != k {
			delete(out, as)
		}
		b, inBefore := before[k]
		switch {
		case !inRaw:
			out[k] = a
		case !inBefore:
			out[k] = mergeValue(r, nil, a)
		default:
			out[k] = mergeValue(r, b, a)
		}
	}
	return out
}

// spelling is the key of m that encoding/json would take for k. It looks at all keys where k is not there as it
// stands: use spellings for more than a few.
func spelling(m map[string]any, k string) string {
	if _, ok := m[k]; ok {
		return k
	}
	for have := range m {
		if strings.EqualFold(have, k) {
			return have
		}
	}
	return k
}

// spellings finds keys as spelling does, for many of them: a body of four megabytes has half a million keys.
func spellings(m map[string]any) func(k string) string {
	var folded map[string]string
	return func(k string) string {
		if _, ok := m[k]; ok {
			return k
		}
		if folded == nil {
			folded = make(map[string]string, len(m))
			for have := range m {
				folded[fold(have)] = have
			}
		}
		if have, ok := folded[fold(k)]; ok {
			if _, still := m[have]; still {
				return have
			}
		}
		return k
	}
}

// fold is one spelling for all that strings.EqualFold takes for equal.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, s)
}

func mergeValue(raw, before, after any) any {
	if reflect.DeepEqual(before, after) {
		return raw
	}
	switch a := after.(type) {
	case map[string]any:
		r, ok := raw.(map[string]any)
		if !ok {
			return a
		}
		b, _ := before.(map[string]any)
		return mergeModel(r, b, a)
	case []any:
		r, rok := raw.([]any)
		b, bok := before.([]any)
		if !rok || !bok || len(r) != len(b) {
			return a
		}
		return mergeArray(r, b, a)
	}
	return after
}

// manyPairs bounds the comparisons of nameless elements with one another. Longer arrays go by position.
const manyPairs = 1 << 16

// mergeArray pairs the elements of after with those they came from: by name where they have names, else
// by equality, else by position.
func mergeArray(raw, before, after []any) []any {
	out := make([]any, len(after))
	taken := make([]bool, len(before))
	from := make([]int, len(after))
	byName := map[string][]int{}
	for j, b := range before {
		if name, named := elementName(b); named {
			byName[fold(name)] = append(byName[fold(name)], j)
		}
	}
	for i, a := range after {
		from[i] = -1
		if name, named := elementName(a); named {
			if js := byName[fold(name)]; len(js) > 0 {
				from[i], taken[js[0]] = js[0], true
				byName[fold(name)] = js[1:]
			}
		} else if len(before)*len(after) <= manyPairs {
			for j, b := range before {
				if !taken[j] && reflect.DeepEqual(a, b) {
					from[i], taken[j] = j, true
					break
				}
			}
		}
	}
	for i, a := range after {
		if _, named := elementName(a); from[i] < 0 && !named && i < len(before) && !taken[i] {
			from[i], taken[i] = i, true
		}
		if from[i] < 0 {
			out[i] = a
			continue
		}
		out[i] = mergeValue(raw[from[i]], before[from[i]], a)
	}
	return out
}

func elementName(v any) (string, bool) {
	m, ok := v.(map[string]any)
	if !ok {
		return "", false
	}
	n, ok := m["name"].(string)
	return n, ok && n != ""
}

// mergePatch applies a JSON merge patch (RFC 7396). Tags are replaced as a whole, as ARM does.
func mergePatch(target, patch map[string]any, top bool) map[string]any {
	out := make(map[string]any, len(target)+len(patch))
	for k, v := range target {
		out[k] = v
	}
	spelled := spellings(target)
	for k, p := range patch {
		as := spelled(k)
		switch p := p.(type) {
		case nil:
			delete(out, as)
		case map[string]any:
			have, _ := out[as].(map[string]any)
			if top && strings.EqualFold(k, "tags") {
				have = nil
			}
			out[as] = mergePatch(have, p, false)
		default:
			out[as] = p
		}
	}
	return out
}

// Contains reports whether a document has every property of want: objects by property, arrays of named
// elements by name, others element by element, resource IDs in any case. An empty value of want is also found
// where the property is absent.
func Contains(document, want json.RawMessage) bool {
	d, err1 := decodeAny(document)
	w, err2 := decodeAny(want)
	return err1 == nil && err2 == nil && contains(d, w)
}

func contains(have, want any) bool {
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok {
			return have == nil && len(w) == 0
		}
		spelled := spellings(h)
		for k, v := range w {
			if !contains(h[spelled(k)], v) {
				return false
			}
		}
		return true
	case []any:
		h, ok := have.([]any)
		if !ok {
			return have == nil && len(w) == 0
		}
		return len(h) == len(w) && containsElements(h, w)
	case string:
		h, ok := have.(string)
		if !ok {
			return have == nil && w == ""
		}
		return h == w || strings.HasPrefix(w, "/subscriptions/") && strings.EqualFold(h, w)
	case bool:
		return have == want || have == nil && !w
	case nil:
		return have == nil
	}
	return reflect.DeepEqual(have, want)
}

func containsElements(have, want []any) bool {
	for i, w := range want {
		h := have[i]
		if name, ok := elementName(w); ok {
			if n, _ := elementName(h); !strings.EqualFold(n, name) {
				h = nil
				for _, candidate := range have {
					if n, _ := elementName(candidate); strings.EqualFold(n, name) {
						h = candidate
						break
					}
				}
			}
			if h == nil {
				return false
			}
			// Names have been compared, and without regard to case.
			w, h = nameless(w.(map[string]any)), nameless(h.(map[string]any))
		}
		if !contains(h, w) {
			return false
		}
	}
	return true
}

func nameless(m map[string]any) map[string]any {
	out := maps.Clone(m)
	delete(out, "name")
	return out
}
