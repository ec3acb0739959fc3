<?php
/**
 * The parts of the plugin, and which hooks they answer.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

spl_autoload_register(
	static function ( string $name ) {
		if ( 0 === strpos( $name, __NAMESPACE__ . '\\' ) ) {
			$file = strtolower( str_replace( '_', '-', substr( $name, strlen( __NAMESPACE__ ) + 1 ) ) );
			require __DIR__ . "/class-$file.php";
		}
	}
);

/** Hooks everything up. */
function start(): void {
	load_plugin_textdomain( 'avatarmod', false, basename( dirname( PLUGIN_FILE ) ) . '/languages' );
	Schedule::hook();
	Receiver::hook();
	Display::hook();
	Buddypress::hook();
	Own_Field::hook();
	Notices::hook();
	Health::hook();
	add_action( 'simple_local_avatar_updated', array( Sender::class, 'examine_later' ) );
	add_action( 'simple_local_avatar_deleted', array( Sender::class, 'examine_later' ) );
	add_action( 'delete_user', array( Sender::class, 'forget' ) );
	if ( is_admin() ) {
		Settings_Page::hook();
		Users_List::hook();
	}
	if ( defined( 'WP_CLI' ) && \WP_CLI ) {
		\WP_CLI::add_command( 'avatarmod', Cli::class );
	}
}
