#!/usr/bin/env bash
# Prints numbers about the code and its language: how long files and functions
# are, how doc comments begin, which words are used, which files import each
# other in a circle. A report to look at, not a gate: it always exits with 0.
#
#   scripts/measure-style.sh [--list]
#
# With --list each finding is shown with its place. Tests are left out, but for the
# words, which are counted in all of src, crates and docs.
set -euo pipefail
cd "$(dirname "$0")/.."

exec perl - "$@" <<'PERL'
use strict;
use warnings;

my $list = grep { $_ eq '--list' } @ARGV;
my $WH = qr/(?:what|how|who|whether|when|where|which|why|whom|whose|whoever)\b/i;
my $WORDS = qr/\b(?:whoever|whom|whose|somebody|nobody|everybody)\b/i;
my $FUNCTION = qr/^(\s*)(?:pub(?:\([^)]*\))?\s+)?(?:(?:const|async|unsafe|extern|default)\s+)*fn\s+(\w+)/;

my @sources = sort grep { !m{/tests?/} && !/_tests?\.rs$/ && !m{/vectors/} } files('rs', 'src', 'crates');
my (%text, @lengths, @functions, @found);
my ($lines, $comments, $docs, $heads, $blocks, $begins_wh, $tuples) = (0) x 7;
my $longest_file = '';

for my $file (@sources) {
    my @code = production(read_lines($file));
    $text{$file} = \@code;
    push @lengths, [scalar @code, $file];
    $lines += @code;
    $heads++ if @code && $code[0] =~ m{^//!};
    $comments += grep { m{^\s*//} } @code;
    $docs += grep { m{^\s*//[/!]} } @code;
    count_doc_blocks($file, @code);
    measure_functions($file, @code);
}

my @circles = circles();
my $words = count_words();
@lengths = sort { $a->[0] <=> $b->[0] } @lengths;
@functions = sort { $a->[0] <=> $b->[0] } @functions;

print "code (src, crates; without tests)\n";
row('files, lines', scalar(@lengths) . ', ' . $lines);
row('file median / p90 / max', join(' / ', quantiles(\@lengths, .5, .9, 1)) . "  ($lengths[-1][1])");
row('functions', scalar @functions);
row('function median / p90 / p99 / max',
    join(' / ', quantiles(\@functions, .5, .9, .99, 1)) . "  ($functions[-1][1])");
row('comment lines (doc)', percent($comments, $lines) . ' (' . percent($docs, $lines) . ')');
row('files with a module head', percent($heads, scalar @lengths));
print "style (aim)\n";
row('doc blocks that begin with a wh-word', percent($begins_wh, $blocks), 'at most 6 %');
row('whoever/whom/whose/some-, no-, everybody', $words, 'at most 25');
row('functions with a tuple parameter', $tuples, 'at most 3');
row('functions over 60 lines', scalar(grep { $_->[0] > 60 } @functions), '0');
row('files over 450 lines', scalar(grep { $_->[0] > 450 } @lengths), '0');
row('circles of more than two files', scalar(grep { @$_ > 2 } @circles), '0');
row('circles of two files', scalar(grep { @$_ == 2 } @circles));
print map { "  $_\n" } @found if $list;
exit 0;

sub files {
    my ($ending, @roots) = @_;
    my @found;
    my @open = grep { -d } @roots;
    while (my $folder = shift @open) {
        opendir(my $entries, $folder) or next;
        for my $name (sort grep { !/^\./ && $_ ne 'target' } readdir $entries) {
            my $path = "$folder/$name";
            if (-d $path) { push @open, $path } elsif ($name =~ /\.$ending$/) { push @found, $path }
        }
    }
    return @found;
}

sub read_lines {
    my ($file) = @_;
    open(my $in, '<', $file) or die "$file: $!\n";
    my @lines = <$in>;
    chomp @lines;
    return @lines;
}

# The lines before the tests of a file.
sub production {
    my @code = @_;
    for my $i (0 .. $#code) {
        return @code[0 .. $i - 1]
            if $code[$i] =~ /^#\[cfg\(test\)\]/ && ($code[$i + 1] // '') =~ /^mod \w+ \{/;
    }
    return @code;
}

# A doc block is a run of lines with one mark; its first words count.
sub count_doc_blocks {
    my ($file, @code) = @_;
    my $before = '';
    for my $i (0 .. $#code) {
        my ($mark, $words) = $code[$i] =~ m{^\s*(//[/!]) ?(.*)};
        $mark //= '';
        if ($mark && $mark ne $before) {
            $blocks++;
            if ($words =~ /^$WH/) {
                $begins_wh++;
                push @found, "$file:" . ($i + 1) . ": begins with a wh-word: $words";
            }
        }
        $before = $mark;
    }
}

# rustfmt puts the closing brace below the first letter of the item.
sub measure_functions {
    my ($file, @code) = @_;
    for my $i (0 .. $#code) {
        my ($indent, $name) = $code[$i] =~ $FUNCTION or next;
        my ($signature, $end) = ('', $i);
        while ($end < $#code) {
            $signature .= $code[$end] . "\n";
            last if $code[$end] =~ /[{;}]\s*$/;
            $end++;
        }
        if ($signature =~ /[(,]\s*(?:mut\s+)?(?:\w+|\([^()]*\))\s*:\s*&?(?:mut\s+)?\((?!\)|dyn |impl )/) {
            $tuples++;
            push @found, "$file:" . ($i + 1) . ": tuple parameter: $name";
        }
        next if $code[$end] =~ /;\s*$/;
        if ($code[$end] !~ /\}\s*$/) {
            $end++ while $end < $#code && $code[$end] !~ /^$indent\}/;
        }
        my $length = $end - $i + 1;
        push @functions, [$length, "$file $name"];
        push @found, "$file:" . ($i + 1) . ": $length lines: $name" if $length > 60;
    }
}

sub count_words {
    my $count = 0;
    my @all = (files('rs', 'src', 'crates'), files('md', 'docs', 'crates'));
    for my $file (@all) {
        my $number = 0;
        for my $line (read_lines($file)) {
            $number++;
            my $hits = () = $line =~ /$WORDS/g;
            $count += $hits;
            push @found, "$file:$number: $line" if $hits;
        }
    }
    return $count;
}

# Files that import each other, directly or by others. What a mod.rs passes on is
# an import of the file that it comes from.
sub circles {
    my (%file_of, %passes_on, %imports);
    for my $file (@sources) { $file_of{module_of($file)} = $file }
    for my $file (@sources) {
        my $module = module_of($file);
        my $all = join("\n", @{$text{$file}});
        while ($all =~ /^pub(?:\([^)]*\))? use ((?:self::|crate::)?[a-z_][^;]*);/gm) {
            for my $path (spread($1)) {
                my $from = absolute($path, $module, $file);
                my ($name) = $from =~ /(?:^|::)(\w+)$/;
                $passes_on{"${module}::$name"} = $from;
            }
        }
    }
    for my $file (@sources) {
        my $module = module_of($file);
        my $is_parent = $file =~ m{(?:mod|lib|main)\.rs$};
        my $all = join("\n", map { (my $l = $_) =~ s{//.*}{}; $l } @{$text{$file}});
        while ($all =~ /^(pub(?:\([^)]*\))? )?use ((?:super|self|crate|[a-z_]+)(?:::[^;]*)?);/gm) {
            next if $1 && $is_parent;
            for my $path (spread($2)) {
                next unless $path =~ /^(?:super|self|crate)\b/;
                my $to = target(absolute($path, $module, $file), \%file_of, \%passes_on);
                $imports{$file}{$to} = 1 if $to && $to ne $file && $to !~ m{(?:mod|lib|main)\.rs$};
            }
        }
    }
    return components(\%imports);
}

sub module_of {
    my ($file) = @_;
    my ($crate, $path) = $file =~ m{^(?:crates/(\w+)/)?src/(.*)\.rs$} or return $file;
    $path =~ s{/mod$}{};
    $path = '' if $path =~ /^(?:lib|main)$/;
    return join '::', $crate // 'program', grep { length } split m{/}, $path;
}

# a::{b, c::{d, e}} as a list of whole paths.
sub spread {
    my ($path) = @_;
    $path =~ s/\s+//g;
    my @done;
    my @open = ($path);
    while (defined(my $one = shift @open)) {
        if ($one =~ /^(.*?)\{(.*)\}$/s) {
            my ($before, $inner, $depth, $part) = ($1, $2, 0, '');
            for my $c (split //, $inner) {
                $depth++ if $c eq '{';
                $depth-- if $c eq '}';
                if ($c eq ',' && !$depth) { push @open, $before . $part if length $part; $part = '' }
                else { $part .= $c }
            }
            push @open, $before . $part if length $part;
        } else {
            $one =~ s/as\w+$// if $one =~ /[a-z]as[A-Z_]\w*$/;
            $one =~ s/::(?:self|\*)$//;
            push @done, $one;
        }
    }
    return @done;
}

sub absolute {
    my ($path, $module, $file) = @_;
    my @at = split /::/, $module;
    my @steps = split /::/, $path;
    if ($steps[0] eq 'crate') { return join '::', $at[0], @steps[1 .. $#steps] }
    if ($steps[0] eq 'self') { shift @steps }
    while (@steps && $steps[0] eq 'super') { shift @steps; pop @at if @at > 1 }
    return join '::', @at, @steps;
}

# The file that has an item: the longest known part of its path.
sub target {
    my ($path, $file_of, $passes_on) = @_;
    for (1 .. 8) {
        last unless exists $passes_on->{$path};
        last if $passes_on->{$path} eq $path;
        $path = $passes_on->{$path};
    }
    my @steps = split /::/, $path;
    while (@steps) {
        my $module = join '::', @steps;
        return $file_of->{$module} if $file_of->{$module};
        pop @steps;
    }
    return undef;
}

# Strongly connected files of more than one.
sub components {
    my ($imports) = @_;
    my ($next, %index, %low, @stack, %on, @all) = (0);
    my $visit;
    $visit = sub {
        my ($at) = @_;
        $index{$at} = $low{$at} = $next++;
        push @stack, $at;
        $on{$at} = 1;
        for my $to (sort keys %{$imports->{$at} // {}}) {
            if (!defined $index{$to}) {
                $visit->($to);
                $low{$at} = $low{$to} if $low{$to} < $low{$at};
            } elsif ($on{$to} && $index{$to} < $low{$at}) {
                $low{$at} = $index{$to};
            }
        }
        return if $low{$at} != $index{$at};
        my @part;
        do { push @part, pop @stack; $on{$part[-1]} = 0 } while $part[-1] ne $at;
        if (@part > 1) {
            push @all, [sort @part];
            push @found, 'circle: ' . join(' ', sort @part);
        }
    };
    for my $file (sort keys %$imports) { $visit->($file) unless defined $index{$file} }
    return @all;
}

sub quantiles {
    my ($sorted, @at) = @_;
    return map { my $i = int($_ * $#$sorted + .5); $sorted->[$i][0] } @at;
}

sub percent { my ($part, $whole) = @_; return sprintf '%.1f %%', 100 * $part / ($whole || 1) }

sub row {
    my ($name, $value, $aim) = @_;
    printf "  %-42s %s%s\n", $name, $value, defined $aim ? "   ($aim)" : '';
}
PERL
