<?php
// Runs a piece of code inside WordPress and prints what it returns: php run.php ROOT URL CODE ARGS.
$_SERVER['HTTP_HOST'] = parse_url( $argv[2], PHP_URL_HOST ) . ':' . parse_url( $argv[2], PHP_URL_PORT );
require $argv[1] . '/wp-load.php';
$given = json_decode( $argv[4], true );
echo "\n--answer--\n", wp_json_encode( ( eval( 'return function ( $given ) {' . $argv[3] . '};' ) )( $given ) );
