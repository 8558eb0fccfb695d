package model

import (
	"strings"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A symbol is what a full name means in one file.
type symbol struct {
	name    protoreflect.FullName
	kind    symbolKind
	file    *protogen.File
	message *protogen.Message // of a message
}

type symbolKind string

const (
	packageSymbol symbolKind = "package"
	messageSymbol symbolKind = "message"
	enumSymbol    symbolKind = "enum"
	serviceSymbol symbolKind = "service"
)

// index notes all names of the request which the name of a message can begin
// with or be mistaken for.
func (l *loader) index() {
	l.symbols = map[protoreflect.FullName][]symbol{}
	for _, file := range l.plugin.Files {
		add := func(name protoreflect.FullName, kind symbolKind, m *protogen.Message) {
			l.symbols[name] = append(l.symbols[name], symbol{name, kind, file, m})
		}
		for pkg := file.Desc.Package(); pkg != ""; pkg = pkg.Parent() {
			add(pkg, packageSymbol, nil)
		}
		for _, enum := range file.Enums {
			add(enum.Desc.FullName(), enumSymbol, nil)
		}
		for _, service := range file.Services {
			add(service.Desc.FullName(), serviceSymbol, nil)
		}
		for m := range messages(file.Messages) {
			if m.Desc.IsMapEntry() {
				continue
			}
			add(m.Desc.FullName(), messageSymbol, m)
			for _, enum := range m.Enums {
				add(enum.Desc.FullName(), enumSymbol, nil)
			}
		}
	}
}

// A reference is a meaning of the name of a message.
type reference struct {
	what                             string
	unknown, notMessage, notImported Code
}

var (
	payloadReference = reference{
		what: "payload", unknown: AlarmPayloadUnknown, notMessage: AlarmPayloadType, notImported: AlarmPayloadNotImported,
	}
	attachmentReference = reference{
		what: "attachment", unknown: AttachmentUnknown, notMessage: AttachmentType, notImported: AttachmentNotImported,
	}
)

// message returns the message that an option of a file names, and nil after it
// told what is wrong. of says whose option it is.
func (l *loader) message(
	file *protogen.File, r reference, of, name string, addf func(code Code, format string, args ...any),
) *protogen.GoIdent {
	visible := map[*protogen.File]bool{file: true}
	l.addImports(visible, file, false)
	s := l.find(file.Desc.Package(), name, func(f *protogen.File) bool { return visible[f] })
	if s == nil {
		s = l.find(file.Desc.Package(), name, func(*protogen.File) bool { return true })
	}
	switch {
	case s == nil:
		addf(r.unknown, "the %s %q of %s is no message of this file or of those that it imports", r.what, name, of)
	case s.kind != messageSymbol:
		addf(r.notMessage, "the %s %q of %s is the %s %s: %[1]ss are messages", r.what, name, of, s.kind, s.name)
	case !visible[s.file]:
		addf(r.notImported, "the %s %q of %s is in %s, which this file does not import", r.what, name, of, s.file.Desc.Path())
	default:
		return &s.message.GoIdent
	}
	return nil
}

// addImports adds the files that file imports, and what they import publicly.
func (l *loader) addImports(visible map[*protogen.File]bool, file *protogen.File, onlyPublic bool) {
	for i := range file.Desc.Imports().Len() {
		imported := file.Desc.Imports().Get(i)
		f := l.plugin.FilesByPath[imported.Path()]
		if f == nil || onlyPublic && !imported.IsPublic || visible[f] {
			continue
		}
		visible[f] = true
		l.addImports(visible, f, true)
	}
}

// find returns what a name means in a package, as compilers find the types of
// fields: with a dot in front it is a full name; otherwise the innermost scope
// counts in which its first part means something. It returns nil when that holds
// nothing of the name.
func (l *loader) find(scope protoreflect.FullName, name string, visible func(*protogen.File) bool) *symbol {
	if full, ok := strings.CutPrefix(name, "."); ok {
		return l.symbol(protoreflect.FullName(full), visible)
	}
	first, _, compound := strings.Cut(name, ".")
	var other *symbol // no type, so it hides none, but it is worth telling
	for {
		s := l.symbol(join(scope, first), visible)
		switch {
		case s == nil:
		case compound:
			return l.symbol(join(scope, name), visible)
		case s.kind == messageSymbol || s.kind == enumSymbol:
			return s
		case other == nil:
			other = s
		}
		if scope == "" {
			return other
		}
		scope = scope.Parent()
	}
}

// symbol returns the first symbol of a full name in a file that is visible.
func (l *loader) symbol(full protoreflect.FullName, visible func(*protogen.File) bool) *symbol {
	for _, s := range l.symbols[full] {
		if visible(s.file) {
			return &s
		}
	}
	return nil
}

func join(scope protoreflect.FullName, name string) protoreflect.FullName {
	if scope == "" {
		return protoreflect.FullName(name)
	}
	return scope + "." + protoreflect.FullName(name)
}
